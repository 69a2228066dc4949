"""Run a YOLOv5 script with hooks in place."""
