"""Run a YOLOv5 script and capture its feature maps."""
