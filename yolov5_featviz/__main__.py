import sys

from yolov5_featviz.cli import main

sys.exit(main())
