"""Look inside a detector: pictures of what chosen layers of a PyTorch model see."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from yolov5_featviz import stop as _stop
from yolov5_featviz.version import __version__

_stop.watch_start()  # before the imports that take seconds

# Where the public names are. They are imported when they are first used, so that `--help` does not wait for torch.
_PUBLIC = {
    "Boxes": "arrays.boxes",
    "Capture": "features.capture",
    "Composition": "figures.composition",
    "Detections": "models.detections",
    "Explanation": "attribution.explain",
    "FeatureMap": "features.feature_map",
    "FeatvizError": "errors",
    "HeatMap": "draw.heatmap",
    "LayerInfo": "models.layers",
    "Picture": "draw.picture",
    "Prediction": "features.prediction",
    "Predictor": "yolov5.predictor",
    "Ranking": "draw.channels",
    "ablate": "attribution.ablation",
    "backproject": "attribution.backproject",
    "cam": "attribution.cam",
    "capture": "features.capture",
    "compatible": "yolov5.load",
    "explain": "yolov5.explain",
    "faithfulness": "yolov5.faithfulness",
    "figure": "yolov5.figure",
    "kernels": "features.kernels",
    "list_layers": "models.layers",
    "load": "yolov5.load",
    "overview": "attribution.explain",
    "picture": "features.tensor",
    "rank": "draw.channels",
    "save": "features.tensor",
    "select_layers": "models.layers",
    "show": "features.tensor",
}

if TYPE_CHECKING:
    from yolov5_featviz.arrays.boxes import Boxes
    from yolov5_featviz.attribution.ablation import ablate
    from yolov5_featviz.attribution.backproject import backproject
    from yolov5_featviz.attribution.cam import cam
    from yolov5_featviz.attribution.explain import Explanation, overview
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
    from yolov5_featviz.models.detections import Detections
    from yolov5_featviz.models.layers import LayerInfo, list_layers, select_layers
    from yolov5_featviz.yolov5.explain import explain
    from yolov5_featviz.yolov5.faithfulness import faithfulness
    from yolov5_featviz.yolov5.figure import figure
    from yolov5_featviz.yolov5.load import compatible, load
    from yolov5_featviz.yolov5.predictor import Predictor

__all__ = [
    "Boxes",
    "Capture",
    "Composition",
    "Detections",
    "Explanation",
    "FeatureMap",
    "FeatvizError",
    "HeatMap",
    "LayerInfo",
    "Picture",
    "Prediction",
    "Predictor",
    "Ranking",
    "__version__",
    "ablate",
    "backproject",
    "cam",
    "capture",
    "compatible",
    "explain",
    "faithfulness",
    "figure",
    "kernels",
    "list_layers",
    "load",
    "overview",
    "picture",
    "rank",
    "save",
    "select_layers",
    "show",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
