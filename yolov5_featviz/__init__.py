"""Look inside a detector: pictures of what chosen layers of a PyTorch model see."""

from yolov5_featviz import stop as _stop

_stop.watch_start()  # before the imports that take seconds

# ruff: noqa: E402
from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.attribution.backproject import backproject
from yolov5_featviz.attribution.cam import cam
from yolov5_featviz.draw.channels import Ranking, rank
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.capture import Capture, capture
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.features.kernels import kernels
from yolov5_featviz.features.prediction import Prediction
from yolov5_featviz.features.tensor import picture, save, show
from yolov5_featviz.figures.composition import Composition
from yolov5_featviz.models.layers import LayerInfo, list_layers, select_layers
from yolov5_featviz.version import __version__
from yolov5_featviz.yolov5.figure import figure
from yolov5_featviz.yolov5.load import compatible, load
from yolov5_featviz.yolov5.predictor import Predictor

__all__ = [
    "Boxes",
    "Capture",
    "Composition",
    "FeatureMap",
    "FeatvizError",
    "HeatMap",
    "LayerInfo",
    "Picture",
    "Prediction",
    "Predictor",
    "Ranking",
    "__version__",
    "backproject",
    "cam",
    "capture",
    "compatible",
    "figure",
    "kernels",
    "list_layers",
    "load",
    "picture",
    "rank",
    "save",
    "select_layers",
    "show",
]
