"""Tables of all command-line flags.

Parsers, ``--help`` and the fields of each command's options object are generated from these tables; flags that are
not given keep the default of the options object. Tests compare the tables with the objects and the docs.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, Callable, Collection, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

from yolov5_featviz.arrays.normalize import NORMS
from yolov5_featviz.arrays.reduce import REDUCTIONS
from yolov5_featviz.arrays.resample import RESAMPLERS
from yolov5_featviz.draw.encode import FORMATS
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError

PREFIX = "--visualize-"


class Flag(NamedTuple):
    """Command-line flag.

    Attributes:
        name: name without dashes or prefix.
        field: field or fields of the options object, set to the result of ``read``.
        help: description with the default.
        metavar: placeholder of the value in the help; None for a flag without a value.
        read: converts the text to the field's value; may raise FeatvizError.
        value: value set by a flag without a value.
        nargs: as in argparse.
        modes: modes, ``report`` or ``overlay``, in which it has an effect; empty for all.
        others: aliases, with their dashes.
    """

    name: str
    field: Union[str, Tuple[str, ...]]
    help: str
    metavar: Optional[str] = None
    read: Callable[[Any], Any] = str
    value: Any = True
    nargs: Optional[str] = None
    modes: Collection[str] = ()
    others: Sequence[str] = ()
    required: bool = False

    @property
    def dest(self) -> str:
        """Name of its attribute in the argparse namespace, present only if the flag was given."""
        return f"flag_{self.name.replace('-', '_')}"


def whole(what: str, low: Optional[int] = 1) -> Callable[[str], int]:
    """Return a converter to integers of at least ``low``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise FeatvizError(f"{what} {text!r} is not a whole number") from None
        if low is not None and number < low:
            raise FeatvizError(f"{what} {number}: take {low} or more")
        return number

    return read


def number(what: str) -> Callable[[str], float]:
    """Return a converter to floats."""

    def read(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise FeatvizError(f"{what} {text!r} is not a number") from None

    return read


def words(text: str) -> List[str]:
    """Split a comma list into lower-case words without duplicates."""
    return list(dict.fromkeys(part.strip().lower() for part in text.split(",")))


def strength(text: str) -> Tuple[float, str]:
    """Parse ``0.8``, ``even:0.4`` or ``add:0.4`` as strength and blend."""
    found = re.fullmatch(r"((add|even):)?(\d*\.?\d+)", text.strip())
    if not found:
        raise FeatvizError(f"alpha {text!r} is not understood: take 0 to 1, such as 0.8, even:0.4 or add:0.4")
    return float(found[3]), found[2] or "mix"


def on_off(text: str) -> bool:
    """Parse ``on`` or ``off``."""
    if text not in ("on", "off"):
        raise FeatvizError(f"report {text}: take on or off")
    return text == "on"


def folder(text: str) -> str:
    """Check that a folder's name is not empty."""
    if not text:
        raise FeatvizError("empty folder name: give a folder")
    return text


def listed(names: Iterable[str], default: str = "") -> str:
    """Join choices for a help text, with the default marked."""
    return ", ".join(f"{name} (default)" if name == default else name for name in names)


MAPS = ("grid", "heatmap", "channels")
DEVICE = Flag("device", "device", "cpu, cuda, cuda:1, 0...; default: CUDA if there is a GPU", "DEVICE")
TRUST = Flag("trust-weights", "trust", "unpickle the checkpoint without any check: it can then run any code")
YOLOV5 = Flag("yolov5", "yolov5", "the YOLOv5 checkout to use; found automatically by default", "DIR", folder)

LOOK = (
    Flag("mode", "modes", "comma list of grid (default), heatmap, channels, pca, cam", "MODES", words),
    Flag(
        "channels",
        "channels",
        "64 (the first 64), all, 0,5,9, 8-15, last:8, top:16, top:16:contrast (or mean, max, std), "
        "top:16:contrast:person; top:16:ablation, by the score that detections lose, a pass for each channel; default "
        "64, and all for heatmap and pca",
        "CHANNELS",
        modes=(*MAPS, "pca"),
    ),
    Flag(
        "norm",
        "norm",
        f"how values become colours: {listed(NORMS, 'channel')}; heat maps use the one of their reduction",
        "NORM",
        modes=MAPS,
    ),
    Flag(
        "reduce",
        "reduce",
        f"how channels become a heat map: {listed(REDUCTIONS, 'mean')}",
        "HOW",
        modes=("heatmap", "report"),
    ),
    Flag("resample", "resample", f"{listed(RESAMPLERS)}; default nearest, and bilinear over images", "HOW"),
    Flag(
        "cmap",
        "cmap",
        "any matplotlib colour map; default viridis, and inferno over images",
        "NAME",
        modes=(*MAPS, "cam", "report"),
    ),
    Flag(
        "alpha",
        ("alpha", "blend"),
        "opacity of the largest value over the image, less where the map is lower; even:0.4 everywhere alike, "
        "add:0.4 added; default 0.8",
        "ALPHA",
        strength,
        modes=("heatmap", "cam", "overlay"),
    ),
    Flag("overlay", "overlay", "overlay single channels on the image, like heat maps", modes=("channels",)),
    Flag("boxes", "boxes", "draw the detections", modes=("heatmap", "cam", "pca", "overlay")),
    Flag(
        "desaturate",
        "desaturate",
        "draw the image below heat maps in grey",
        modes=("heatmap", "cam", "overlay", "report"),
    ),
    Flag(
        "method",
        "method",
        "for cam: layer-cam (default), grad-cam, grad-cam++, odam, ss-grad-cam++, eigen-cam",
        "NAME",
        modes=("cam",),
    ),
    Flag(
        "target",
        "target",
        "for cam: a class, by name or number; person:0 for its most confident detection; person@x0,y0,x1,y1 for the "
        "best candidate there, detected or not; errors or missed, where there are labels; default all detections, or a "
        "classifier's top class",
        "TARGET",
        modes=("cam",),
    ),
    Flag("merge", "merge", "for cam: one map for all layers", modes=("cam",)),
    Flag("smooth", "smooth", "for cam: smooth the map 3x3, which removes a checkerboard", modes=("cam",)),
    Flag("axes", "axes", "for pca: rgb (default), or lab, safe for colour-blind readers", "AXES", modes=("pca",)),
    Flag("format", "formats", f"comma list of {listed([*FORMATS, 'npy'], 'png')}", "FORMATS", words),
    Flag("dpi", "dpi", "pixels per inch; default 300", "DPI", whole("dpi", low=None)),
    Flag(
        "width",
        "width",
        "of the pictures in print: inches, or ieee-column, cvpr-page, nature-double...; default by content",
        "WIDTH",
        width_of,
    ),
    Flag("plain", "plain", "no captions, only pixels"),
)
REPORT = (
    Flag("report", "report", "index.html, a report of the run: on (default) or off", "WHEN", on_off),
    Flag("quiet", "say", "print only errors", value=-1),
    Flag("verbose", "say", "print every file name, and full rankings", value=1),
)
RUN = (
    Flag("layers", "layers", "17,20,23 | -2 | 0-9 | SPP | 17.m.0.cv2 | all, backbone, neck, detect", "LAYERS"),
    *LOOK,
    Flag("dir", "folder", "output folder of the pictures; default the run folder", "DIR", folder),
    Flag(
        "every",
        "every",
        "every N epochs of a training (default 10) or frames of a video (default 1)",
        "N",
        whole("--visualize-every"),
    ),
    Flag(
        "limit",
        "limit",
        "at most N images (default 8 in validation and training, else all)",
        "N",
        whole("--visualize-limit"),
    ),
    *REPORT,
    Flag("summary", "summary", "keep YOLOv5's model-summary pass, skipped by default"),
)
OWN_NAMES = (YOLOV5, TRUST)  # flags of `run` without prefix


def add(parser: Any, flags: Iterable[Flag], prefix: str = "--", also: str = "") -> None:
    """Add flags to a parser under ``prefix``, and under ``also``, which the help omits."""
    for flag in flags:
        options: Dict[str, Any] = {"dest": flag.dest, "default": argparse.SUPPRESS}
        if flag.metavar is None:
            options["action"] = "store_true"
        else:
            options.update(metavar=flag.metavar, nargs=flag.nargs)
        names = [prefix + flag.name, *flag.others]
        parser.add_argument(*names, help=flag.help.replace("%", "%%"), required=flag.required, **options)
        if also:
            parser.add_argument(also + flag.name, help=argparse.SUPPRESS, **options)


def given(o: argparse.Namespace, flags: Iterable[Flag], prefix: str = "--") -> Dict[str, Any]:
    """Return the given flags as fields of an options object.

    Raises:
        FeatvizError: a value is invalid, or two flags set the same field.
    """
    fields: Dict[str, Any] = {}
    by: Dict[str, Flag] = {}
    for flag in flags:
        if not hasattr(o, flag.dest):
            continue
        text = getattr(o, flag.dest)
        value = flag.value if flag.metavar is None else text if isinstance(text, list) else flag.read(text)
        names = (flag.field,) if isinstance(flag.field, str) else flag.field
        for name, part in zip(names, (value,) if isinstance(flag.field, str) else value):
            if name in by:
                raise FeatvizError(f"{prefix}{by[name].name} and {prefix}{flag.name}: take one of them")
            by[name], fields[name] = flag, part
    return fields


def check_modes(o: argparse.Namespace, flags: Iterable[Flag], look: Any, report: bool, prefix: str = "--") -> None:
    """Raise FeatvizError for a given flag that has no effect in the modes of ``look``."""
    active = {*look.modes, *(["report"] if report else []), *(["overlay"] if look.overlay else [])}
    for flag in flags:
        if flag.modes and hasattr(o, flag.dest) and not active.intersection(flag.modes):
            named = (mode for mode in flag.modes if mode != "report")
            *others, last = [f"{prefix}overlay" if mode == "overlay" else f"{prefix}mode {mode}" for mode in named]
            where = f"{', '.join(others)} or {last}" if others else last
            raise FeatvizError(f"{prefix}{flag.name} does nothing here: it goes with {where}")
