"""All that knows YOLOv5; nothing outside this folder does."""
