"""All that knows YOLOv5; nothing outside this folder does."""

from yolov5_featviz.yolov5 import model as model  # makes its numbering of layers known
