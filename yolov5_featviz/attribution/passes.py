"""Run a detector on many inputs, several a pass, and find the candidates in each."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, Callable, Iterable, Iterator, List, Optional

import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.models.detections import SAME_BOX, SAME_SCORE, Candidates, Detections, Thresholds, watching
from yolov5_featviz.models.hooks import eval_mode

Find = Callable[[Any], Detections]
Progress = Callable[[Iterable[Any]], Iterable[Any]]

NOTHING = Thresholds(conf=1.0)  # candidates are wanted, not detections: spares the suppression
LARGEST = 256  # batch that is tried
FASTER = 1.05  # least gain in speed for which a larger batch is taken


def each_candidates(
    model: nn.Module,
    image: torch.Tensor,
    inputs: Callable[[int, int], torch.Tensor],
    count: int,
    batch: Optional[int] = None,
    find: Optional[Find] = None,
) -> Iterator[Candidates]:
    """Yield the candidates in each of ``count`` inputs, several a pass where that gives the same.

    A family's functions see the first image of a pass. So the output is split into one of a single image each, and it
    is tried, on two different images, whether that gives the candidates of each; if not, or if it cannot be told, or
    the model takes one image only, inputs are run one by one. A batch for which the device has no memory is halved.

    Args:
        model: the detector, in evaluation mode. It runs without gradients.
        image: an input ``[1, C, H, W]`` to try it on.
        inputs: returns inputs ``start`` to ``stop``, ``[n, C, H, W]``. They are asked for in order, right before
            they are run; those of a pass that failed are asked for again.
        count: the number of inputs.
        batch: the most inputs in one pass; None for 8, on a GPU 32.
        find: for detectors of no known family, a function from the output for one image to :class:`Detections`.

    Raises:
        FeatvizError: invalid argument, ``find`` is missing, or the model cannot be run.
    """
    size = (32 if image.device.type == "cuda" else 8) if batch is None else batch
    if size < 1:
        raise FeatvizError(f"a batch of {size} images: take 1 or more")
    size = min(size, count)
    if size > 1 and not _splits(model, image, find):
        size = 1
    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            found = _candidates(model, inputs(start, stop), find)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise FeatvizError(f"the model cannot be run: {reason(error)}") from error
            if stop - start == 1:
                raise FeatvizError(f"{image.device} has no memory left for one image {list(image.shape)}") from error
        else:
            yield from found
            start = stop
            continue
        size = (stop - start) // 2
        if image.device.type == "cuda":
            torch.cuda.empty_cache()


class _Counted:
    """An iterable of a known length, for progress bars."""

    def __init__(self, items: Iterable[Any], count: int) -> None:
        self.items, self.count = items, count

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return self.count


def shown(found: Iterable[Candidates], count: int, progress: Optional[Progress]) -> Iterable[Candidates]:
    """Return what :func:`each_candidates` yields, wrapped by ``progress``, which is told how many there are."""
    return found if progress is None else progress(_Counted(found, count))


def candidates_in(model: nn.Module, image: torch.Tensor, find: Optional[Find] = None) -> Candidates:
    """Return the candidates in one input, ``[1, C, H, W]``; see :func:`each_candidates`."""
    return next(each_candidates(model, image, lambda start, stop: image, 1, 1, find))


def best_batch(model: nn.Module, image: torch.Tensor, find: Optional[Find] = None) -> int:
    """Return how many images a pass are the fastest to find candidates in, by trying 1, 2, 4...

    It ends where two doublings in a row gain less than a twentieth, at 256, or where the device has no memory left.

    Args:
        model: the detector. It is not changed, and runs without gradients.
        image: an input ``[1, C, H, W]``.
        find: as for :func:`each_candidates`.

    Raises:
        FeatvizError: as :func:`each_candidates`.
    """
    with eval_mode(model):
        candidates_in(model, image, find)  # raises what is wrong, in words
        if not _splits(model, image, find):
            return 1
        best, fastest, size = 1, _speed(model, image, 1, find), 2
        while size <= min(4 * best, LARGEST):
            try:
                speed = _speed(model, image, size, find)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise FeatvizError(f"the model cannot be run: {reason(error)}") from error
                if image.device.type == "cuda":
                    torch.cuda.empty_cache()
                break
            if speed > FASTER * fastest:
                best, fastest = size, speed
            size *= 2
    return best


def _speed(model: nn.Module, image: torch.Tensor, size: int, find: Optional[Find]) -> float:
    """Return how many images a second are run in passes of ``size``, the better of two."""
    images = image.repeat(size, 1, 1, 1)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        _candidates(model, images, find)  # on the CPU in the end, so a GPU has finished
        times.append(time.perf_counter() - started)
    return size / min(times[1:])


def _candidates(model: nn.Module, images: torch.Tensor, find: Optional[Find]) -> List[Candidates]:
    """Run the model on images ``[n, C, H, W]`` at once; return the candidates in each."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        found = stack.enter_context(watching(model, find))
        output = model(images)
        parts = [output] if len(images) == 1 else (_part(output, i, len(images)) for i in range(len(images)))
        return [found(part, NOTHING).candidates for part in parts]


def _part(output: Any, i: int, n: int) -> Any:
    """Return the output for image ``i`` of ``n``."""
    if isinstance(output, torch.Tensor):
        return output[i : i + 1] if output.dim() and len(output) == n else output
    if isinstance(output, dict):
        return {key: _part(value, i, n) for key, value in output.items()}
    if not isinstance(output, (list, tuple)):
        return output
    if len(output) == n and all(isinstance(one, dict) for one in output):  # as torchvision: a dictionary an image
        return [output[i]]
    return type(output)([_part(value, i, n) for value in output])


def _splits(model: nn.Module, image: torch.Tensor, find: Optional[Find]) -> bool:
    """Return whether the candidates in two images are the same if both are run at once."""
    other = image.flip(2, 3) * 0.5
    try:
        alone = [_candidates(model, one, find)[0] for one in (image, other)]
        if _same(*alone):
            return False  # either's could be taken for the other's
        together = _candidates(model, torch.cat([image, other]), find)
        return all(_same(one, same) for one, same in zip(alone, together))
    except Exception:  # whatever a model, or a function for one image, does with two; one by one it is raised
        return False


def _same(one: Candidates, other: Candidates) -> bool:
    pairs = ((one.boxes, other.boxes, SAME_BOX), (one.scores, other.scores, SAME_SCORE))
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=most) for a, b, most in pairs)


def _out_of_memory(error: RuntimeError) -> bool:
    words = ("out of memory", "allocate memory", "not enough memory")  # of CUDA, and of the CPU's allocator
    return any(word in str(error) for word in words)
