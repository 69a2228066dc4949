"""Everything specific to YOLOv5; no other package depends on it, except ``cli``."""
