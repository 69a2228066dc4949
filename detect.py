"""YOLOv5's detect.py, with pictures: python detect.py --weights best.pt --visualize-layers 17,20,23"""

import sys
from pathlib import Path

from yolov5_featviz.cli import launch

sys.exit(launch(Path(__file__).resolve().parent))
