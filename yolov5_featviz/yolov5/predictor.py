"""Run a checkpoint as ``detect.py`` does, with the pre- and post-processing of its own YOLOv5."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import pickle
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.attribution.cam import cam
from yolov5_featviz.attribution.dependence import dependences
from yolov5_featviz.attribution.explain import Explanation, explain_input
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.features.capture import Capture
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.features.prediction import Prediction
from yolov5_featviz.models.detections import Detections, Thresholds, located, watching
from yolov5_featviz.models.device import choose_device
from yolov5_featviz.models.layers import LayerSpec, index_layers, select_layers
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.layers import find_model
from yolov5_featviz.yolov5.letterbox import is_too_narrow, letterbox_region
from yolov5_featviz.yolov5.script.batch import Batch, find_boxes
from yolov5_featviz.yolov5.script.compat import Surroundings
from yolov5_featviz.yolov5.script.monkeypatch import Patches
from yolov5_featviz.yolov5.source import Source, find_source
from yolov5_featviz.yolov5.validation import THRESHOLDS, Placed, prepare, rounds_up
from yolov5_featviz.yolov5.weights.checkpoint import load_checkpoint, model_of
from yolov5_featviz.yolov5.weights.guard import guard

# modules that hold pre- and post-processing in the releases
MODULES = ("utils.augmentations", "utils.datasets", "utils.dataloaders", "utils.general", "utils.utils")
# environment variables that importing YOLOv5 sets for the whole process
SETS = ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS")
MOST = 1000  # detections of an image, as in detect.py
_TURN = threading.RLock()  # patches are process-wide, so one thread at a time


class Predictor:
    """YOLOv5 model that processes images as ``detect.py`` does.

    ::

        see = fv.Predictor("best.pt")
        seen = see("bus.jpg", layers="17,20,23")
        seen.boxes, seen[17].heatmap().over(seen.pixels)

    Image preparation and non-maximum suppression are those of the YOLOv5 in use, and convolutions are
    fused with their batch normalisation, so that maps and boxes equal those of ``detect.py`` to the
    last bit, given the same number of threads. Instances are thread-safe: models run one at a time,
    images are read in parallel.

    Args:
        weights: a ``.pt`` checkpoint.
        yolov5: folder of the checkout; found automatically if None.
        trust: unpickle without any check.
        device: ``cpu``, ``cuda:1``...; the first GPU if there is one, else the CPU.

    Raises:
        FeatvizError: the checkpoint cannot be read, there is no YOLOv5, another one was imported before, or there
            is no such device.
    """

    def __init__(
        self,
        weights: Union[str, Path],
        yolov5: Optional[str] = None,
        trust: bool = False,
        device: Optional[Union[str, int]] = None,
    ) -> None:
        self.weights, self.source, self._trust = str(weights), find_source(yolov5), trust
        self.device = choose_device(device)
        with _own(self.source), _as_before():
            _check_alone(self.source)
            self.model = model_of(load_checkpoint(weights, self.source, trust=trust), str(weights), trust)
            self._letterbox = _function(self.source, "letterbox")
            self._suppress = _function(self.source, "non_max_suppression")
            with _quiet(self.source):  # after all imports
                _fuse(self.model)
            self.model.to(self.device)
        self.index = index_layers(self.model)
        stride = getattr(find_model(self.model), "stride", None)
        self.stride = max(32, int(stride.max())) if isinstance(stride, torch.Tensor) else 32

    @property
    def release(self) -> str:
        """Release of the YOLOv5 in use."""
        return self.source.release

    @property
    def names(self) -> Dict[int, str]:
        """Class names by number."""
        names = getattr(find_model(self.model), "names", ())
        return {int(k): str(name) for k, name in (names.items() if isinstance(names, dict) else enumerate(names))}

    def layers(self, layers: LayerSpec) -> List[str]:
        """Return the layer names of a selection. Raises FeatvizError if a part of it matches nothing."""
        return [layer.name for layer in select_layers(self.index, layers)]

    def prepare(self, image: Union[str, Path, np.ndarray], imgsz: int = 640) -> Tuple[torch.Tensor, Region]:
        """Prepare an image as ``detect.py`` does.

        Args:
            image: path of a file, read with OpenCV; or uint8 RGB ``[H, W, 3]``.
            imgsz: target size of the longer side in pixels, rounded up to a multiple of the stride.

        Returns:
            ``(x, region)``: float32 ``[1, 3, h, w]`` in [0, 1], on the CPU, padded to multiples of the
            stride, and the image's region in it: left, top, right and bottom edge in pixels.

        Raises:
            FeatvizError: the image cannot be read.
        """
        side = -(-imgsz // self.stride) * self.stride
        pixels = read_image(image)
        check_size(pixels, side, image)
        options = {"stride": self.stride, "auto": True}
        known = inspect.signature(self._letterbox).parameters
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        boxed = self._letterbox(bgr, side, **{name: value for name, value in options.items() if name in known})[0]
        x = torch.from_numpy(np.ascontiguousarray(boxed[..., ::-1].transpose(2, 0, 1)))[None].float() / 255
        return x, letterbox_region((pixels.shape[0], pixels.shape[1]), (int(x.shape[2]), int(x.shape[3])))

    def __call__(
        self,
        image: Union[str, Path, np.ndarray],
        layers: Optional[LayerSpec] = None,
        imgsz: int = 640,
        conf: float = 0.25,
        iou: float = 0.45,
        name: str = "",
        ablate: LayerSpec = (),
    ) -> Prediction:
        """Run the model on an image.

        Args:
            image: see :meth:`prepare`.
            layers: layer selection whose maps to keep; None for none.
            imgsz: see :meth:`prepare`.
            conf, iou: confidence and IoU thresholds, as for ``detect.py``.
            name: name of the image for captions; by default that of the file.
            ablate: those of the layers whose channels can then be ranked by ``ablation``; see
                :func:`yolov5_featviz.draw.channels.rank`. The model is run once more for each of their channels.

        Raises:
            FeatvizError: the image cannot be read, there is no such layer, or it yields no feature map.
        """
        pixels = read_image(image)
        name = name or image_name(image)
        x, region = self.prepare(pixels, imgsz)
        with ExitStack() as stack:
            stack.enter_context(_own(self.source))
            stack.enter_context(torch.no_grad())
            selected = select_layers(self.index, layers) if layers is not None else []
            features = stack.enter_context(Capture(self.index, selected)) if selected else None
            boxes = self._detect(self._run(x.to(self.device)), conf, iou)
        maps = features.of_image(0, name) if features is not None else []
        maps = [replace(feature_map, region=region, boxes=boxes) for feature_map in maps]
        ablated = [layer for layer in select_layers(self.index, ablate) if layer.path in {fm.layer.path for fm in maps}]
        if ablated:
            with _own(self.source):
                limits = Thresholds(conf, iou, MOST)
                known = dependences(self.index.root, x.to(self.device), ablated, boxes, limits)
            maps = [fm.with_dependence(known[fm.layer.path]) if fm.layer.path in known else fm for fm in maps]
        return Prediction(name, pixels, (int(x.shape[2]), int(x.shape[3])), region, boxes, maps)

    def cam(
        self,
        image: Union[str, Path, np.ndarray],
        layer: Union[int, str],
        target: Any = None,
        method: str = "layer-cam",
        imgsz: int = 640,
        smooth: bool = False,
        conf: float = 0.25,
        iou: float = 0.45,
    ) -> HeatMap:
        """Compute a class activation map of a layer for an image.

        Args:
            image, imgsz, conf, iou: see :meth:`__call__`.
            layer, method, smooth: see :func:`yolov5_featviz.attribution.cam.cam`.
            target: likewise; boxes are in pixels of the image.
        """
        pixels = read_image(image)
        x, region = self.prepare(pixels, imgsz)
        how: Any = {"region": region, "size": pixels.shape[:2], "name": image_name(image), "smooth": smooth}
        with _own(self.source):
            return cam(self.model, x.to(self.device), layer, target, method, conf=conf, iou=iou, **how)[0]

    def detections(
        self, image: Union[str, Path, np.ndarray], imgsz: int = 640, conf: float = 0.25, iou: float = 0.45
    ) -> Tuple[Detections, Region]:
        """Detect objects in an image, and return the candidates as well, whose scores have no gradient here.

        Args:
            image, imgsz, conf, iou: see :meth:`__call__`.

        Returns:
            ``(detections, region)``: in pixels of the input, and the image's region in it.

        Raises:
            FeatvizError: the image cannot be read, or the model is no detector.
        """
        x, region = self.prepare(image, imgsz)
        with _own(self.source), torch.no_grad(), watching(self.index.root) as rows:
            output = self._run(x.to(self.device))
            every = rows(output, Thresholds(conf, iou, MOST))
            found = self._detect(output, conf, iou)
        if found is None or found.scores is None or found.classes is None:
            raise FeatvizError(f"the model in {self.weights} is no detector: its output has no boxes")
        boxes, scores, classes = (torch.from_numpy(part.copy()) for part in (found.xyxy, found.scores, found.classes))
        candidates = replace(every.candidates, score=_no_gradient, box=None)
        return located(candidates, boxes, scores, classes, every.names), region

    def validated(self, image: Union[str, Path, np.ndarray], imgsz: int = 640) -> Tuple[Boxes, Placed]:
        """Detect objects as ``val.py --batch-size 1`` does, with its thresholds.

        Args:
            image, imgsz: see :meth:`prepare`.

        Returns:
            ``(boxes, placed)``: in pixels of the image, cut to it; and where the image was in the input.

        Raises:
            FeatvizError: the image cannot be read, or the model is no detector.
        """
        side = -(-imgsz // self.stride) * self.stride
        x, placed = prepare(read_image(image), side, self.stride, self._letterbox, rounds_up(self.source.root))
        with _own(self.source), torch.no_grad():
            found = self._detect(self._run(x.to(self.device)), *THRESHOLDS, multi_label=True)
        if found is None:
            raise FeatvizError(f"the model in {self.weights} is no detector: its output has no boxes")
        return placed.in_image(found), placed

    def explain(
        self, image: Union[str, Path, np.ndarray], *arguments: Any, imgsz: int = 640, name: str = "", **options: Any
    ) -> List[Explanation]:
        """Explain detections in an image; see :func:`yolov5_featviz.attribution.explain.explain_input`."""
        pixels = read_image(image)
        x, region = self.prepare(pixels, imgsz)
        options.update(region=region, size=(int(pixels.shape[0]), int(pixels.shape[1])), name=name or image_name(image))
        with _own(self.source):
            return explain_input(self.model, x.to(self.device), *arguments, **options)

    def own(self) -> ContextManager[None]:
        """Return a context in which YOLOv5's modules can be imported and are silent; one thread at a time."""
        return _own(self.source)

    def _run(self, x: torch.Tensor) -> Any:
        """Run the model. Raises FeatvizError if that fails."""
        try:
            with nullcontext() if self._trust else guard(imports=True):
                return self.model(x)
        except FeatvizError:
            raise
        except Exception as error:  # a damaged model, or one for another checkout
            size = "x".join(map(str, x.shape[2:]))
            raise FeatvizError(
                f"the model in {self.weights} cannot be run on {size} pixels: {reason(error)}"
            ) from error

    def _detect(
        self, output: Any, conf: float, iou: float, most: int = MOST, multi_label: bool = False
    ) -> Optional[Boxes]:
        decoded = output[0] if isinstance(output, (list, tuple)) else output
        if not isinstance(decoded, torch.Tensor) or decoded.dim() != 3:
            return None
        names = getattr(find_model(self.model), "names", ())
        known = inspect.signature(self._suppress).parameters
        masks = max(0, int(decoded.shape[2]) - 5 - len(names)) if names else 0
        options = {"max_det": most, "nm": masks, **({"multi_label": True} if multi_label else {})}
        found = self._suppress(decoded, conf, iou, **{key: n for key, n in options.items() if key in known})
        return Batch([], found=find_boxes(found)).boxes(0, names)


def _no_gradient(row: int, kind: int) -> torch.Tensor:
    raise FeatvizError("these candidates were found without gradients: take Predictor.explain")


def read_image(image: Union[str, Path, np.ndarray]) -> np.ndarray:
    """Read a file with OpenCV as uint8 RGB ``[H, W, 3]``; return an array as it is. Raises FeatvizError."""
    import cv2

    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise FeatvizError(f"not an image: {image.dtype} of shape {list(image.shape)}: give uint8 RGB [H, W, 3]")
        return image
    words = printable(image)
    if not os.path.isfile(image):
        why = ": it is a folder" if os.path.isdir(image) else ""
        why = ": the link leads nowhere" if os.path.islink(image) and not why else why
        raise FeatvizError(f"no image {words}{why}")
    try:
        pixels: Any = cv2.imread(str(image))
    except Exception as error:  # too many pixels for OpenCV, no permission, or an empty file with YOLOv5's imread
        raise FeatvizError(f"cannot read the image {words}: {reason(error)}") from None
    if pixels is None:
        raise FeatvizError(f"cannot read the image {words}: it is damaged or not an image")
    return np.ascontiguousarray(pixels[..., ::-1])


def check_size(pixels: np.ndarray, imgsz: int, image: Any = "") -> None:
    """Raise FeatvizError if ``pixels`` are too narrow for YOLOv5 to resize to ``imgsz``.

    Args:
        pixels: ``[H, W, 3]``.
        imgsz: target size of the longer side.
        image: their file, for the message.
    """
    height, width = pixels.shape[:2]
    if is_too_narrow((height, width), (imgsz, imgsz)):
        words = f"the image {printable(image)}" if isinstance(image, (str, Path)) and image else "an image"
        raise FeatvizError(f"cannot bring {words}, of {width} x {height} pixels, to {imgsz}: nothing is left of it")


def image_name(image: Any) -> str:
    """Return the name of an image for captions: the stem of its file, or ``image``."""
    return printable(Path(image).stem) if isinstance(image, (str, Path)) else "image"


@contextmanager
def _own(source: Source) -> Iterator[None]:
    """Context in which YOLOv5's modules can be imported and are silent; one thread at a time."""
    with _TURN, Surroundings(source, script=False), source.importable(), _quiet(source):
        yield


@contextmanager
def _quiet(source: Source) -> Iterator[None]:
    """Suppress prints, and logs below warnings, of YOLOv5's modules in this thread."""
    thread = threading.get_ident()

    def elsewhere(*words: Any, **options: Any) -> None:
        if threading.get_ident() != thread:
            print(*words, **options)

    def is_relevant(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or record.thread != thread

    modules = _modules_of(source)
    loggers = {one for module in modules for one in list(vars(module).values()) if isinstance(one, logging.Logger)}
    patches = Patches()
    try:
        for module in modules:
            patches.set(module, "print", elsewhere)
        for logger in loggers:
            logger.addFilter(is_relevant)
        yield
    finally:
        patches.undo()
        for logger in loggers:
            logger.removeFilter(is_relevant)


def _modules_of(source: Source) -> Tuple[ModuleType, ...]:
    """Return the modules imported from ``source``."""
    return _modules_below(os.path.join(os.path.realpath(source.root), ""), len(sys.modules))


@lru_cache(maxsize=8)
def _modules_below(root: str, count: int) -> Tuple[ModuleType, ...]:
    """Return the modules whose files are inside ``root``; ``count``, of all modules, is the cache key."""

    @lru_cache(maxsize=None)  # thousands of files in a few hundred folders
    def is_below(folder: str) -> bool:
        return bool(folder) and os.path.join(os.path.realpath(folder), "").startswith(root)

    files = ((module, getattr(module, "__file__", None)) for module in list(sys.modules.values()))
    return tuple(module for module, file in files if is_below(os.path.dirname(file or "")))


@contextmanager
def _as_before() -> Iterator[None]:
    """Restore the environment and print options that importing YOLOv5 changes."""
    environment = {name: os.environ.get(name) for name in SETS}
    arrays, tensors = np.get_printoptions(), dict(vars(torch._tensor_str.PRINT_OPTS))
    try:
        yield
    finally:
        np.set_printoptions(**arrays)
        vars(torch._tensor_str.PRINT_OPTS).update(tensors)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_alone(source: Source) -> None:
    """Raise FeatvizError if other modules with the names of YOLOv5's are already imported."""
    for name in ("models", "utils"):
        module = sys.modules.get(f"{source.package}.{name}".lstrip("."))
        places = [*getattr(module, "__path__", ()), *filter(None, [getattr(module, "__file__", None)])]
        if places and os.path.realpath(source.root / name) not in [os.path.realpath(place) for place in places]:
            raise FeatvizError(
                f"a module {name} was imported from {places[0]}, and cannot be that of {source.root} as well: "
                "use one YOLOv5 in a process, as yolov5_featviz.yolov5.predictor.predictors does"
            )


def _function(source: Source, name: str) -> Callable[..., Any]:
    for module in MODULES:
        path = f"{source.package}.{module}".lstrip(".")
        if (source.root / f"{module.replace('.', '/')}.py").is_file():
            found: Any = getattr(importlib.import_module(path), name, None)
            if callable(found):
                return found  # type: ignore[no-any-return]
    raise FeatvizError(f"YOLOv5 in {source.root} has no {name} in {', '.join(MODULES)}")


def _fuse(model: nn.Module) -> None:
    """Fuse layers as the scripts do, without the model summary, which costs a forward pass."""
    root = find_model(model)
    if root is None or not hasattr(root, "fuse"):
        return
    vars(root)["info"] = lambda *_, **__: None
    try:
        root.fuse()  # type: ignore[operator]
    finally:
        del vars(root)["info"]
    model.eval()


class RemotePredictor:
    """:class:`Predictor` in a separate process, since each can import only one YOLOv5."""

    def __init__(self, weights: Union[str, Path], *arguments: Any) -> None:
        """Start the process; the arguments are those of :class:`Predictor`."""
        self.weights = str(weights)
        command = [sys.executable, "-c", "from yolov5_featviz.yolov5.predictor import serve; serve()"]
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # not interrupted with us; it ends when its input closes
        )
        self.release = ""
        self.names: Dict[int, str] = {}
        self._send("start", torch.get_num_threads(), self.weights, *arguments)

    def ready(self) -> None:
        """Wait until the checkpoint is loaded. Raises FeatvizError as :class:`Predictor`."""
        self.release, self.names = self._receive()

    def layers(self, layers: LayerSpec) -> List[str]:
        """See :meth:`Predictor.layers`."""
        names: List[str] = self._ask("layers", layers)
        return names

    def __call__(self, *arguments: Any, **options: Any) -> Prediction:
        """See :class:`Predictor`."""
        prediction: Prediction = self._ask("see", *arguments, **options)
        return prediction

    def cam(self, *arguments: Any, **options: Any) -> HeatMap:
        """See :meth:`Predictor.cam`."""
        heat: HeatMap = self._ask("cam", *arguments, **options)
        return heat

    def detections(self, *arguments: Any, **options: Any) -> Tuple[Detections, Region]:
        """See :meth:`Predictor.detections`."""
        found: Tuple[Detections, Region] = self._ask("detections", *arguments, **options)
        return found

    def validated(self, *arguments: Any, **options: Any) -> Tuple[Boxes, Placed]:
        """See :meth:`Predictor.validated`."""
        found: Tuple[Boxes, Placed] = self._ask("validated", *arguments, **options)
        return found

    def explain(self, *arguments: Any, **options: Any) -> List[Explanation]:
        """See :meth:`Predictor.explain`."""
        found: List[Explanation] = self._ask("explain", *arguments, **options)
        return found

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait()

    def _ask(self, *question: Any, **options: Any) -> Any:
        self._send(*question, **options)
        return self._receive()

    def _send(self, *question: Any, **options: Any) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # the process has ended, which `_receive` reports
            pickle.dump((question, options), self._process.stdin)
            self._process.stdin.flush()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            failed, answer = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise RuntimeError(f"the process of {self.weights} ended with {self._process.wait()}") from None
        if failed:
            raise FeatvizError(answer)
        return answer


@contextmanager
def predictors(
    weights: Sequence[str],
    yolov5: Sequence[Optional[str]] = (),
    trust: bool = False,
    device: Optional[Union[str, int]] = None,
) -> Iterator[List[Union[Predictor, RemotePredictor]]]:
    """Create predictors of several checkpoints, in separate processes if they use different checkouts.

    Args:
        weights: the checkpoints.
        yolov5: the checkout of each, or one for all; empty to find one automatically.
        trust: unpickle without any check.
        device: as for :class:`Predictor`, the same for all.

    Raises:
        FeatvizError: as :class:`Predictor`, or there are more checkouts than checkpoints.
    """
    checkouts = list(yolov5) * len(weights) if len(yolov5) == 1 else list(yolov5) or [None] * len(weights)
    if len(checkouts) != len(weights):
        raise FeatvizError(f"{len(checkouts)} checkouts for {len(weights)} checkpoints: give one, or one for each")
    roots = {find_source(checkout).root for checkout in checkouts}
    kind = Predictor if len(roots) < 2 else RemotePredictor
    with ExitStack() as stack:
        found: List[Union[Predictor, RemotePredictor]] = []
        for path, checkout in zip(weights, checkouts):
            one = kind(path, checkout, trust, device)
            found.append(one)
            if isinstance(one, RemotePredictor):
                stack.callback(one.close)
        for one in found:  # checkpoints are loaded in parallel
            if isinstance(one, RemotePredictor):
                one.ready()
        yield found


def serve() -> None:
    """Serve requests from standard input; main loop of a :class:`RemotePredictor` process."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep YOLOv5's prints out of the answers
    predictor: Any = None
    while True:
        try:
            (what, *arguments), options = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if what == "start":
                torch.set_num_threads(arguments[0])  # results differ in their last bits otherwise
                predictor = Predictor(*arguments[1:])
                answer: Any = predictor.release, predictor.names
            elif what == "layers":
                answer = predictor.layers(*arguments)
            elif what == "cam":
                heat = predictor.cam(*arguments, **options)
                answer = replace(heat, feature_map=_bare(heat.feature_map))
            elif what == "detections":
                answer = predictor.detections(*arguments, **options)
            elif what == "validated":
                answer = predictor.validated(*arguments, **options)
            elif what == "explain":
                found = predictor.explain(*arguments, **options)
                heats = [replace(one.heat, feature_map=_bare(one.heat.feature_map)) for one in found]
                answer = [replace(one, heat=heat) for one, heat in zip(found, heats)]
            else:
                seen = predictor(*arguments, **options)
                answer = replace(seen, maps=[_bare(feature_map) for feature_map in seen.maps])
            failed = False
        except FeatvizError as error:
            failed, answer = True, str(error)
        try:
            pickle.dump((failed, answer), answers, protocol=4)
            answers.flush()
        except BrokenPipeError:  # the parent has closed the pipe
            os._exit(0)


def _bare(feature_map: FeatureMap) -> FeatureMap:
    """Remove the module, which must not be sent to another process."""
    return replace(feature_map, layer=replace(feature_map.layer, module=nn.Identity()))
