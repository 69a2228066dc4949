"""All that knows YOLOv5; nothing outside this folder does."""

# these make their ways of numbering layers known
from yolov5_featviz.yolov5 import layers as model
from yolov5_featviz.yolov5 import ultralytics
