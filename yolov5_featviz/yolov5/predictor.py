"""A checkpoint with all that comes before and after it, from its own YOLOv5: as ``detect.py`` runs it."""

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
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.attribution.cam import cam
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.features.capture import Capture
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.features.prediction import Prediction
from yolov5_featviz.models.device import choose_device
from yolov5_featviz.models.layers import LayerSpec, index_layers, select_layers
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.layers import find_model
from yolov5_featviz.yolov5.letterbox import is_too_narrow, letterbox_region
from yolov5_featviz.yolov5.script.batch import Batch, find_boxes
from yolov5_featviz.yolov5.script.compat import Surroundings
from yolov5_featviz.yolov5.script.monkeypatch import Patches
from yolov5_featviz.yolov5.source import Source, find_source
from yolov5_featviz.yolov5.weights.checkpoint import load_checkpoint, model_of
from yolov5_featviz.yolov5.weights.guard import guard

# where the releases keep what goes before and after the network
MODULES = ("utils.augmentations", "utils.datasets", "utils.dataloaders", "utils.general", "utils.utils")
# what importing YOLOv5 sets for the whole process, and nobody asked for
SETS = ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS")
_TURN = threading.RLock()  # what is put in place around YOLOv5 is in the place of all: one thread at a time


class Predictor:
    """A YOLOv5 model that sees images as ``detect.py`` shows them to it.

    ::

        see = fv.Predictor("best.pt")
        seen = see("bus.jpg", layers="17,20,23")
        seen.boxes, seen[17].heatmap().over(seen.pixels)

    Image preparation and non-maximum suppression are those of the YOLOv5 that is found, and the
    convolutions are fused with their normalisation, so that maps and boxes are the same as those of
    ``detect.py`` to the last bit, on as many threads. Several threads may use it, and several of them:
    models are run one after the other, images are read side by side.

    Args:
        weights: a ``.pt`` checkpoint.
        yolov5: folder of the checkout; found by itself if left out.
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
            with _quiet(self.source):  # now that all is imported
                _fuse(self.model)
            self.model.to(self.device)
        self.index = index_layers(self.model)
        stride = getattr(find_model(self.model), "stride", None)
        self.stride = max(32, int(stride.max())) if isinstance(stride, torch.Tensor) else 32

    @property
    def release(self) -> str:
        """Of the YOLOv5 that is used."""
        return self.source.release

    @property
    def names(self) -> Dict[int, str]:
        """Of the classes."""
        names = getattr(find_model(self.model), "names", ())
        return {int(k): str(name) for k, name in (names.items() if isinstance(names, dict) else enumerate(names))}

    def layers(self, layers: LayerSpec) -> List[str]:
        """The names of the layers of a selection. Raises FeatvizError if a part of it names nothing."""
        return [layer.name for layer in select_layers(self.index, layers)]

    def prepare(self, image: Union[str, Path, np.ndarray], imgsz: int = 640) -> Tuple[torch.Tensor, Region]:
        """An image as ``detect.py`` prepares it.

        Args:
            image: the path of a file, read as OpenCV reads it; or uint8 RGB ``[H, W, 3]``.
            imgsz: what its longer side is brought to, in pixels; a multiple of the stride, or else the next.

        Returns:
            ``(x, region)``: float32 ``[1, 3, h, w]`` in [0, 1], on the CPU, padded to multiples of the
            stride, and where in it the image lies: left, top, right and bottom edge in pixels.

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
    ) -> Prediction:
        """Show the model an image.

        Args:
            image: see :meth:`prepare`.
            layers: whose maps to keep; a layer selection. None for none.
            imgsz: see :meth:`prepare`.
            conf, iou: which boxes count as detections, and which as the same, as for ``detect.py``.
            name: of the image, for captions; the file's otherwise.

        Raises:
            FeatvizError: the image cannot be read, there is no such layer, or it yields no feature map.
        """
        pixels = read_image(image)
        name = name or _name(image)
        x, region = self.prepare(pixels, imgsz)
        with ExitStack() as stack:
            stack.enter_context(_own(self.source))
            stack.enter_context(torch.no_grad())
            selected = select_layers(self.index, layers) if layers is not None else []
            features = stack.enter_context(Capture(self.index, selected)) if selected else None
            boxes = self._detect(self._run(x.to(self.device)), conf, iou)
        maps = features.of_image(0, name) if features is not None else []
        maps = [replace(feature_map, region=region, boxes=boxes) for feature_map in maps]
        return Prediction(name, pixels, (int(x.shape[2]), int(x.shape[3])), region, boxes, maps)

    def cam(
        self,
        image: Union[str, Path, np.ndarray],
        layer: Union[int, str],
        target: Any = None,
        method: str = "layer-cam",
        imgsz: int = 640,
    ) -> HeatMap:
        """A class activation map of a layer for an image; see :func:`yolov5_featviz.attribution.cam.cam`."""
        x, region = self.prepare(image, imgsz)
        with _own(self.source):
            return cam(self.model, x.to(self.device), layer, target, method, region=region, name=_name(image))[0]

    def _run(self, x: torch.Tensor) -> Any:
        """The model's output. Raises FeatvizError if it cannot be run."""
        try:
            with nullcontext() if self._trust else guard(imports=True):
                return self.model(x)
        except FeatvizError:
            raise
        except Exception as error:  # of a damaged model, or of one for another checkout
            size = "x".join(map(str, x.shape[2:]))
            raise FeatvizError(
                f"the model in {self.weights} cannot be run on {size} pixels: {reason(error)}"
            ) from error

    def _detect(self, output: Any, conf: float, iou: float) -> Optional[Boxes]:
        decoded = output[0] if isinstance(output, (list, tuple)) else output
        if not isinstance(decoded, torch.Tensor) or decoded.dim() != 3:
            return None
        names = getattr(find_model(self.model), "names", ())
        known = inspect.signature(self._suppress).parameters
        options = {"max_det": 1000, "nm": max(0, int(decoded.shape[2]) - 5 - len(names)) if names else 0}
        found = self._suppress(decoded, conf, iou, **{key: n for key, n in options.items() if key in known})
        return Batch([], found=find_boxes(found)).boxes(0, names)


def read_image(image: Union[str, Path, np.ndarray]) -> np.ndarray:
    """uint8 RGB ``[H, W, 3]`` of a file, as OpenCV reads it; an array as it is. Raises FeatvizError."""
    import cv2

    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise FeatvizError(f"no image, but {image.dtype} of shape {list(image.shape)}: give uint8 RGB [H, W, 3]")
        return image
    words = printable(image)
    if not os.path.isfile(image):
        why = ": it is a folder" if os.path.isdir(image) else ""
        why = ": the link leads nowhere" if os.path.islink(image) and not why else why
        raise FeatvizError(f"no image {words}{why}")
    try:
        pixels: Any = cv2.imread(str(image))
    except Exception as error:  # too many pixels for OpenCV; no right to read; with YOLOv5's imread, no bytes
        raise FeatvizError(f"cannot read the image {words}: {reason(error)}") from None
    if pixels is None:
        raise FeatvizError(f"cannot read the image {words}: it is damaged, or none")
    return np.ascontiguousarray(pixels[..., ::-1])


def check_size(pixels: np.ndarray, imgsz: int, image: Any = "") -> None:
    """Raise FeatvizError if ``pixels`` are so narrow that YOLOv5 cannot bring them to ``imgsz``.

    Args:
        pixels: ``[H, W, 3]``.
        imgsz: what the longer side is brought to.
        image: the file that they are of, for the message.
    """
    height, width = pixels.shape[:2]
    if is_too_narrow((height, width), (imgsz, imgsz)):
        words = f"the image {printable(image)}" if isinstance(image, (str, Path)) and image else "an image"
        raise FeatvizError(f"cannot bring {words}, of {width} x {height} pixels, to {imgsz}: nothing is left of it")


def _name(image: Any) -> str:
    return printable(Path(image).stem) if isinstance(image, (str, Path)) else "image"


@contextmanager
def _own(source: Source) -> Iterator[None]:
    """Where YOLOv5's own modules can be imported, and say nothing; one thread at a time."""
    with _TURN, Surroundings(source, script=False), source.importable(), _quiet(source):
        yield


@contextmanager
def _quiet(source: Source) -> Iterator[None]:
    """YOLOv5's modules print nothing in this thread, and log nothing but warnings; all others say what they have to."""
    thread = threading.get_ident()

    def elsewhere(*words: Any, **options: Any) -> None:
        if threading.get_ident() != thread:
            print(*words, **options)

    def heard(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or record.thread != thread

    modules = _modules_of(source)
    loggers = {one for module in modules for one in list(vars(module).values()) if isinstance(one, logging.Logger)}
    patches = Patches()
    try:
        for module in modules:
            patches.set(module, "print", elsewhere)
        for logger in loggers:
            logger.addFilter(heard)
        yield
    finally:
        patches.undo()
        for logger in loggers:
            logger.removeFilter(heard)


def _modules_of(source: Source) -> Tuple[ModuleType, ...]:
    """What was imported from ``source``."""
    return _modules_below(os.path.join(os.path.realpath(source.root), ""), len(sys.modules))


@lru_cache(maxsize=8)
def _modules_below(root: str, count: int) -> Tuple[ModuleType, ...]:
    """The modules whose files lie below ``root``, when there are ``count`` in all."""

    @lru_cache(maxsize=None)  # thousands of files lie in a few hundred folders
    def is_below(folder: str) -> bool:
        return bool(folder) and os.path.join(os.path.realpath(folder), "").startswith(root)

    files = ((module, getattr(module, "__file__", None)) for module in list(sys.modules.values()))
    return tuple(module for module, file in files if is_below(os.path.dirname(file or "")))


@contextmanager
def _as_before() -> Iterator[None]:
    """What importing YOLOv5 sets beyond itself is as it was afterwards: environment, and how arrays are printed."""
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
    """Raise FeatvizError if modules of other files have the names of YOLOv5's: they would be taken for them."""
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
    """As the scripts do, without the summary that comes with it, which costs a forward pass."""
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
    """A :class:`Predictor` in a process of its own, since only one YOLOv5 can be imported in each."""

    def __init__(
        self,
        weights: Union[str, Path],
        yolov5: Optional[str] = None,
        trust: bool = False,
        device: Optional[Union[str, int]] = None,
    ) -> None:
        self.weights = str(weights)
        command = [sys.executable, "-c", "from yolov5_featviz.yolov5.predictor import serve; serve()"]
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # an interrupt is for us; it ends when its input does
        )
        self.release = ""
        self.names: Dict[int, str] = {}
        self._tell("start", torch.get_num_threads(), self.weights, yolov5, trust, device)

    def ready(self) -> None:
        """Wait until the checkpoint is read. Raises FeatvizError as :class:`Predictor`."""
        self.release, self.names = self._hear()

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

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait()

    def _ask(self, *question: Any, **options: Any) -> Any:
        self._tell(*question, **options)
        return self._hear()

    def _tell(self, *question: Any, **options: Any) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # of a process that has ended, nothing will be heard
            pickle.dump((question, options), self._process.stdin)
            self._process.stdin.flush()

    def _hear(self) -> Any:
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
    """Predictors of several checkpoints, in processes of their own if they are not all of one YOLOv5.

    Args:
        weights: the checkpoints.
        yolov5: the checkout of each; one for all, or none for the one that is found.
        trust: unpickle without any check.
        device: as for :class:`Predictor`, of all of them.

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
        for one in found:  # which have read their checkpoints side by side
            if isinstance(one, RemotePredictor):
                one.ready()
        yield found


def serve() -> None:
    """What a process of its own does: answer what is asked on its input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what YOLOv5 prints is no answer
    predictor: Any = None
    while True:
        try:
            (what, *arguments), options = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if what == "start":
                torch.set_num_threads(arguments[0])  # or sums would come out otherwise in their last bits
                predictor = Predictor(*arguments[1:])
                answer: Any = predictor.release, predictor.names
            elif what == "layers":
                answer = predictor.layers(*arguments)
            elif what == "cam":
                heat = predictor.cam(*arguments, **options)
                answer = replace(heat, feature_map=_bare(heat.feature_map))
            else:
                seen = predictor(*arguments, **options)
                answer = replace(seen, maps=[_bare(feature_map) for feature_map in seen.maps])
            failed = False
        except FeatvizError as error:
            failed, answer = True, str(error)
        try:
            pickle.dump((failed, answer), answers, protocol=4)
            answers.flush()
        except BrokenPipeError:  # nobody wants it any more
            os._exit(0)


def _bare(feature_map: FeatureMap) -> FeatureMap:
    """Without the module, which is of this process."""
    return replace(feature_map, layer=replace(feature_map.layer, module=nn.Identity()))
