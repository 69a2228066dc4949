"""Hook for mmengine's runner that draws feature maps of an mmdetection detector in testing or training.

In a config::

    custom_imports = dict(imports=["yolov5_featviz.mmdet"])
    custom_hooks = [dict(type="FeatureMapHook", layers="backbone,neck", modes=["heatmap"])]
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.draw.channels import is_by_ablation
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.capture import Capture, capture
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.files import new_folder, write
from yolov5_featviz.models.layers import LayerSpec
from yolov5_featviz.models.openmmlab import region_of
from yolov5_featviz.runs.look import Look, render
from yolov5_featviz.runs.names import TAKEN
from yolov5_featviz.runs.saver import Saver
from yolov5_featviz.text import file_name


@HOOKS.register_module()
class FeatureMapHook(Hook):  # type: ignore[misc]
    """Hook that draws layers for the first images of a test, and for one every ``interval`` training iterations.

    A layer that returns several tensors, as backbones and necks do, gives a picture of each: for
    ``backbone``, ``level0`` to ``level3`` are C2 to C5, for an FPN P3 and so on. Test images are drawn
    over the image's file, without the padding, with the detections; training images over the image as
    the pipeline made it, with its labels.

    Args:
        layers: a layer selection; see :func:`yolov5_featviz.models.layers.select_layers`.
        limit: number of images to draw in a test or validation.
        interval: in training, draw the first image of every ``interval``-th iteration; None: no image.
        folder: output folder; by default ``feature_maps`` in the runner's log folder. Each image has a
            folder of its own, in training below ``iter_500`` and so on.
        score: minimum score of a detection.
        look: what to draw and how: any of the fields of :class:`yolov5_featviz.runs.look.Look`.

    Raises:
        FeatvizError: invalid argument; at the start of the run, no such layer.
    """

    priority = "LOW"

    def __init__(
        self,
        layers: LayerSpec = "backbone,neck",
        limit: int = 8,
        interval: Optional[int] = 500,
        folder: Optional[str] = None,
        score: float = 0.3,
        **look: Any,
    ) -> None:
        self.layers, self.limit, self.interval, self.folder, self.score = layers, limit, interval, folder, score
        self.look = Look(**{"modes": ("heatmap",), **look})
        if is_by_ablation(self.look.channels):
            raise FeatvizError("the hook does not run the model again: rank by contrast, or use fv.ablate")
        self._capture: Optional[Capture] = None
        self._saver: Optional[Saver] = None
        self._drawn = 0

    def before_run(self, runner: Any) -> None:
        """Check the layer selection, and set the output folder."""
        capture(runner.model, self.layers)
        self._home = Path(self.folder or Path(runner.log_dir) / "feature_maps")

    def before_test_epoch(self, runner: Any) -> None:
        self._drawn = 0

    before_val_epoch = before_test_epoch

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self._drawn < self.limit:
            self._begin(runner)

    before_val_iter = before_test_iter

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.interval and runner.iter % self.interval == 0:
            given = data_batch["data_samples"][0].gt_instances
            # copied now: a detector may rescale them in place
            self._labels = Boxes(
                _xyxy(given.bboxes).copy(), labels=self._names(runner, given.labels), classes=given.labels.cpu().numpy()
            )
            self._begin(runner)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._after(runner, data_batch, outputs, "")

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._after(runner, data_batch, outputs, f"val_iter_{runner.iter}")

    def _after(self, runner: Any, batch: Any, outputs: Any, below: str) -> None:
        features = self._end(runner)
        for i, sample in enumerate(outputs if features is not None else ()):
            if self._drawn < self.limit:
                self._drawn += 1
                self._draw(features.of_image(i), *self._tested(runner, sample, batch["inputs"][i]), below)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        features = self._end(runner)
        if features is not None:
            maps = features.of_image(0)
            trained = self._trained(runner, data_batch, maps[0].input_size if maps else None)
            self._draw(maps, *trained, f"iter_{runner.iter}")

    def after_run(self, runner: Any) -> None:
        """Wait for pending writes, and log the result."""
        if self._saver is not None:
            self._saver.close()
            for error in sorted({str(error) for error in self._saver.errors}):
                runner.logger.warning(f"yolov5-featviz: could not save: {error}")
            runner.logger.info(f"yolov5-featviz: {self._saver.done} feature maps in {self._home}")
            self._saver = None

    def _begin(self, runner: Any) -> None:
        if is_main_process():
            self._capture = capture(runner.model, self.layers).__enter__()

    def _end(self, runner: Any) -> Any:
        features, self._capture = self._capture, None
        if features is not None:
            features.__exit__(None, None, None)
        return features

    def _draw(self, maps: List[FeatureMap], image: Any, region: Optional[Region], boxes: Boxes, below: str) -> None:
        if not maps:
            return
        self._saver = self._saver or Saver()
        folder = new_folder(self._home / below / file_name(maps[0].image or "image"), TAKEN)
        for feature_map in maps:
            placed = replace(feature_map, region=region, boxes=boxes)
            self._saver.submit(partial(_save, render(placed, self.look, image), folder))

    def _tested(self, runner: Any, sample: Any, pixels: torch.Tensor) -> Tuple[Any, Optional[Region], Boxes]:
        """Return the original image, its region in the input, and the detections."""
        meta = sample.metainfo
        found = sample.pred_instances
        found = found[found.scores >= self.score]
        region = region_of(meta)
        if region is None or not Path(meta.get("img_path") or "").is_file():
            image = self._as_image(runner, pixels)
            return image, (0.0, 0.0, float(image.shape[1]), float(image.shape[0])), Boxes(np.zeros((0, 4)))
        height, width = meta["ori_shape"][:2]
        left, top, right, bottom = region
        scale = np.array([(right - left) / width, (bottom - top) / height] * 2)
        xyxy = _xyxy(found.bboxes) * scale + np.array([left, top] * 2)
        labels = self._names(runner, found.labels)
        return meta["img_path"], region, Boxes(xyxy, found.scores.cpu().numpy(), labels, found.labels.cpu().numpy())

    def _trained(self, runner: Any, batch: Any, size: Optional[Tuple[int, int]]) -> Tuple[Any, Optional[Region], Boxes]:
        """Return the first image as the pipeline made it, its region in the input, and its labels."""
        inputs = batch["inputs"]
        image = self._as_image(runner, inputs[0])
        # padded to the largest of the batch and a multiple of the divisor, then perhaps resized as a whole
        divisor = getattr(_unwrapped(runner.model).data_preprocessor, "pad_size_divisor", 1)
        padded = [-(-max(int(one.shape[d]) for one in inputs) // divisor) * divisor for d in (1, 2)]
        down, across = (side / whole for side, whole in zip(size or padded, padded))
        boxes = replace(self._labels, xyxy=self._labels.xyxy * np.array([across, down] * 2))
        return image, (0.0, 0.0, image.shape[1] * across, image.shape[0] * down), boxes

    def _as_image(self, runner: Any, pixels: torch.Tensor) -> np.ndarray:
        """Convert the pipeline's output to RGB ``[H, W, 3]``."""
        bgr = getattr(_unwrapped(runner.model).data_preprocessor, "_channel_conversion", False)
        image: np.ndarray = pixels.cpu().numpy().transpose(1, 2, 0)
        return np.ascontiguousarray(image[..., ::-1] if bgr else image)

    def _names(self, runner: Any, labels: Any) -> List[str]:
        meta: Dict[str, Any] = runner.visualizer.dataset_meta or {}
        names = meta.get("classes", ())
        return [str(names[i]) if i < len(names) else str(i) for i in labels.tolist()]


def _unwrapped(model: Any) -> Any:
    """Return the model inside a distributed wrapper."""
    return model.module if hasattr(model, "module") else model


def _xyxy(boxes: Any) -> np.ndarray:
    tensor: torch.Tensor = getattr(boxes, "tensor", boxes)
    return tensor.detach().cpu().float().numpy().reshape(-1, 4)


def _save(files: Iterator[Tuple[str, bytes]], folder: Union[str, Path]) -> None:
    for name, content in files:
        write(Path(folder) / name, content)
