"""Words to calls; no logic of its own."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import json
import re
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from yolov5_featviz import stop
from yolov5_featviz.console import finish, out, say, streams
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.text import printable
from yolov5_featviz.version import __version__

USAGE = """\
usage: yolov5-featviz run SCRIPT [YOLOv5's own flags] [flags below]
       yolov5-featviz layers --weights W [--imgsz N] [--json]
       yolov5-featviz patch CHECKOUT [--reverse]
       yolov5-featviz image --model M --layers LAYERS --source IMAGES [--weights W] [--imgsz N] [flags below]
       yolov5-featviz layers --model M [--weights W] [--imgsz N] [--depth N] [--json]
       yolov5-featviz figure FIGURE.yaml [--output FILE...] [--dpi N]
       yolov5-featviz compare --weights A.pt B.pt... --layers LAYERS --source IMAGES
       yolov5-featviz info FIGURE [--json]
       yolov5-featviz redo FIGURE [--weights W...] [--source IMAGE] [--yolov5 DIR] [--run]
       yolov5-featviz --version

Run a YOLOv5 script, unedited, and take pictures of the layers you ask for; or put images through any
other model: torchvision:resnet50, timm:resnet50, or module:function or file.py:function for yours.
"""


def flags() -> argparse.ArgumentParser:
    """The flags that are added to YOLOv5's own."""
    parser = _Words(prog="yolov5-featviz", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("flags added by yolov5-featviz")
    add = group.add_argument
    add(
        "--visualize-layers",
        metavar="LAYERS",
        help="17,20,23 | -2 | 0-9 | SPP | 17.m.0.cv2 | all, backbone, neck, detect",
    )
    _look_flags(group)
    add("--visualize-dir", metavar="DIR", help="where the pictures go; default the run folder")
    add(
        "--visualize-every", metavar="N", type=int, help="each N epochs of a training (default 10) or frames of a video"
    )
    add("--visualize-limit", metavar="N", type=int, help="N images at most (default 8 in validation, else all)")
    _report_flags(group)
    add("--visualize-summary", action="store_true", help="keep YOLOv5's model-summary pass, skipped otherwise")
    add("--yolov5", metavar="DIR", help="the YOLOv5 checkout to use; found by itself otherwise")
    add("--trust-weights", action="store_true", help="unpickle the checkpoint without any check")
    return parser


def _look_flags(parser: Any) -> None:
    """The flags that say what to draw of a layer, and how."""
    add = parser.add_argument
    add(
        "--visualize-mode",
        metavar="MODES",
        default="grid",
        help="comma list of grid (default), heatmap, channels, pca, cam",
    )
    add(
        "--visualize-method",
        metavar="NAME",
        default="layer-cam",
        help="for cam: layer-cam (default), grad-cam, grad-cam++, eigen-cam",
    )
    add(
        "--visualize-target",
        metavar="TARGET",
        help="for cam: a class, by name or number; person:0 for the most certain detection of one; "
        "default all detections, or a classifier's best class",
    )
    add("--visualize-merge", action="store_true", help="for cam: one map for all layers")
    add(
        "--visualize-channels",
        metavar="CHANNELS",
        help="64 (the first 64), all, 0,5,9, 8-15, last:8, top:16, top:16:contrast (or mean, max, std); "
        "default 64, and all for heatmap and pca",
    )
    add(
        "--visualize-norm",
        metavar="NORM",
        help="how values become colours: channel (default), layer, robust, zero, signed, signed-robust, sigmoid, none, "
        "byte",
    )
    add(
        "--visualize-reduce",
        metavar="HOW",
        default="mean",
        help="channels to a heat map: mean (default), sum, max, select-max, l2, std",
    )
    add(
        "--visualize-resample",
        metavar="HOW",
        help="nearest, bilinear, bilinear-left, bicubic; default nearest, and bilinear over images",
    )
    add("--visualize-cmap", metavar="NAME", help="any matplotlib colour map; default viridis, and jet over images")
    add(
        "--visualize-alpha",
        metavar="ALPHA",
        default="0.4",
        help="strength of the heat over the image; add:0.4 adds it to the image instead of mixing both; default 0.4",
    )
    add("--visualize-overlay", action="store_true", help="lay single channels over the image, as heat maps are")
    add("--visualize-boxes", action="store_true", help="draw the detections on what is laid over the image")
    add("--visualize-format", metavar="FORMATS", default="png", help="comma list of png, pdf, svg, jpg, tif, npy")
    add("--visualize-dpi", metavar="DPI", type=int, default=300, help="default 300")
    add("--visualize-plain", action="store_true", help="no captions, only pixels")


def _report_flags(parser: Any) -> None:
    """The flags that say what is told of a run, and where."""
    add = parser.add_argument
    add(
        "--visualize-report",
        metavar="WHEN",
        default="on",
        help="index.html, one page about the run: on (default) or off",
    )
    add("--visualize-quiet", action="store_true", help="say nothing but what went wrong")
    add("--visualize-verbose", action="store_true", help="name every file, and give rankings in full")


class _Words(argparse.ArgumentParser):
    """Tells a user's mistake in one line."""

    def error(self, message: str) -> Any:
        raise FeatvizError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for word in args or ():
            name, _, value = word.partition("=")
            if name.startswith("--") and value == "--":  # of which argparse makes a list
                self.error(f"{name} needs a value, and -- is none")
        return super().parse_known_args(args, namespace)


def split(arguments: List[str]) -> Tuple[List[str], List[str]]:
    """Part the command line into our flags, as ``--flag=value``, and the rest, untouched and in order."""
    takes = {name: not isinstance(a, argparse._StoreTrueAction) for a in flags()._actions for name in a.option_strings}
    ours: List[str] = []
    rest: List[str] = []
    words = iter(arguments)
    for word in words:
        name = word.split("=", 1)[0]
        if word == "--":
            return ours, [*rest, word, *words]
        if name not in takes:
            if re.match("--visuali[sz]e[-_]", name):
                near = difflib.get_close_matches(name, takes, 1)
                raise FeatvizError(f"no flag {name}" + (f": did you mean {near[0]}?" if near else ""))
            rest.append(word)
        elif "=" in word and not takes[name]:
            raise FeatvizError(f"{name} takes no value")
        elif takes[name] and "=" not in word:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise FeatvizError(f"{name} needs a value")
            ours.append(f"{name}={value}")
        else:
            ours.append(word)
    return ours, rest


def options(ours: List[str]) -> Any:
    """Our flags as :class:`yolov5_featviz.yolov5.script.artist.Options`, checked as far as can be without a model."""
    from yolov5_featviz.yolov5.script.artist import Options

    for word in ours:
        if word in ("--visualize-dir=", "--yolov5="):
            raise FeatvizError(f"{word[:-1]} needs a value: name a folder")
    o = flags().parse_args(ours)
    for flag, number in (("--visualize-every", o.visualize_every), ("--visualize-limit", o.visualize_limit)):
        if number is not None and number < 1:
            raise FeatvizError(f"{flag} {number}: take 1 or more")
    return Options(
        layers=o.visualize_layers,
        **_look(o),
        folder=o.visualize_dir,
        summary=o.visualize_summary,
        every=o.visualize_every,
        limit=o.visualize_limit,
        **_report(o),
        yolov5=o.yolov5,
        trust=o.trust_weights,
    )


def _look(o: argparse.Namespace) -> Dict[str, Any]:
    """What :func:`_look_flags` were given, as :class:`yolov5_featviz.runs.look.Look` takes it."""
    strength = re.fullmatch(r"(add:)?(\d*\.?\d+)", o.visualize_alpha.strip())
    if not strength:
        raise FeatvizError(f"alpha {o.visualize_alpha!r} is not understood: take 0 to 1, such as 0.4, or add:0.4")
    return {
        "modes": _words(o.visualize_mode),
        "channels": o.visualize_channels,
        "norm": o.visualize_norm,
        "reduce": o.visualize_reduce,
        "resample": o.visualize_resample,
        "cmap": o.visualize_cmap,
        "alpha": float(strength.group(2)),
        "blend": "add" if strength.group(1) else "mix",
        "overlay": o.visualize_overlay,
        "method": o.visualize_method,
        "target": o.visualize_target,
        "merge": o.visualize_merge,
        "boxes": o.visualize_boxes,
        "formats": _words(o.visualize_format),
        "dpi": o.visualize_dpi,
        "plain": o.visualize_plain,
    }


def _report(o: argparse.Namespace) -> Dict[str, Any]:
    """What :func:`_report_flags` were given: whether there is a page, and how much to say, from -1 to 1."""
    if o.visualize_report not in ("on", "off"):
        raise FeatvizError(f"--visualize-report {o.visualize_report}: take on or off")
    if o.visualize_quiet and o.visualize_verbose:
        raise FeatvizError("--visualize-quiet and --visualize-verbose: take one of them")
    return {"report": o.visualize_report == "on", "say": int(o.visualize_verbose) - int(o.visualize_quiet)}


def _words(text: str) -> List[str]:
    return list(dict.fromkeys(part.strip().lower() for part in text.split(",")))


def run(
    script: str,
    arguments: List[str],
    weights_folder: Optional[Path] = None,
    here: bool = True,
    command: Sequence[str] = (),
) -> int:
    """``yolov5-featviz run``: see :func:`yolov5_featviz.yolov5.script.runner.run`."""
    from yolov5_featviz.yolov5.script import runner

    ours, rest = split(arguments)
    if "-h" in rest or "--help" in rest:
        out(flags().format_help())
    asked = options(ours)
    idle = [word.split("=", 1)[0] for word in ours if word.startswith("--visualize-")]
    if asked.layers is None and idle:
        raise FeatvizError(f"{idle[0]} does nothing without --visualize-layers: name some, such as 17,20,23")
    return runner.run(script, rest, asked, weights_folder, here, command or ["run", script, *arguments])


def layers(arguments: List[str]) -> int:
    """``yolov5-featviz layers``: print the table of layers."""
    from yolov5_featviz.models.layers import list_layers
    from yolov5_featviz.models.summary import layer_table
    from yolov5_featviz.yolov5.load import load
    from yolov5_featviz.yolov5.script.validate import locate_weights
    from yolov5_featviz.yolov5.weights.guard import guard

    parser = _Words(prog="yolov5-featviz layers", description="List the layers of a model.", allow_abbrev=False)
    parser.add_argument("--weights", help="a YOLOv5 .pt checkpoint, or a state dict for --model")
    parser.add_argument("--model", help="torchvision:resnet50, timm:resnet50, module:function or file.py:function")
    parser.add_argument(
        "--imgsz", "--img", "--img-size", type=int, nargs="+", help="input size; default 640, or what --model wants"
    )
    parser.add_argument("--depth", type=int, help="how deep to go into modules; default 1, or 2 for --model")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--yolov5", metavar="DIR", help="the YOLOv5 checkout to use")
    parser.add_argument("--trust-weights", action="store_true", help="unpickle without any check")
    o = parser.parse_args(arguments)
    if o.weights is None and o.model is None:
        raise FeatvizError("give --weights, a YOLOv5 checkpoint, or --model, such as torchvision:resnet50")
    if o.imgsz and (len(o.imgsz) > 2 or min(o.imgsz) < 1):
        raise FeatvizError(f"--imgsz {' '.join(map(str, o.imgsz))}: give one size, or height and width")
    if o.depth is not None and o.depth < 1:
        raise FeatvizError(f"--depth {o.depth}: take 1 or more")
    if o.model is None:
        model = load(locate_weights(o.weights, [Path("weights")]), o.yolov5, o.trust_weights)
        size = (640, 640)
    else:
        zoo = _zoo_model(o)
        model, size = zoo.model, zoo.input_size()
    size = (o.imgsz[0], o.imgsz[-1]) if o.imgsz else size
    with nullcontext() if o.trust_weights or o.model is not None else guard(imports=True):
        rows = list_layers(model, size, o.depth or (1 if o.model is None else 2))
    out(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) if o.json else layer_table(rows))
    return 0


def patch(arguments: List[str]) -> int:
    """``yolov5-featviz patch``: see :func:`yolov5_featviz.yolov5.fork_patch.patch`."""
    from yolov5_featviz.yolov5 import fork_patch

    parser = _Words(prog="yolov5-featviz patch", description="Add the flags to a fork's detect.py.", allow_abbrev=False)
    parser.add_argument("checkout", metavar="CHECKOUT", help="the folder that holds detect.py")
    parser.add_argument("--reverse", action="store_true", help="take them out again")
    o = parser.parse_args(arguments)
    out(fork_patch.patch(o.checkout, o.reverse))
    return 0


def figure(arguments: List[str], command: Sequence[str] = ()) -> int:
    """``yolov5-featviz figure``: see :func:`yolov5_featviz.yolov5.figure.figure`."""
    from yolov5_featviz.yolov5 import figure as figures

    parser = _Words(
        prog="yolov5-featviz figure",
        description="Make a figure for a paper from a YAML file; docs/figures.md says what may stand in it.",
        allow_abbrev=False,
    )
    parser.add_argument("figure", metavar="FIGURE.yaml", help="rows and columns of images, detections and layers")
    parser.add_argument("--output", nargs="+", metavar="FILE", help="instead of those in the file: pdf, svg, png, tif")
    parser.add_argument("--dpi", type=int, help="instead of that in the file")
    parser.add_argument("--trust-weights", action="store_true", help="unpickle without any check")
    o = parser.parse_args(arguments)
    for path in figures.write_figure(o.figure, o.output, command or ["figure", *arguments], o.trust_weights, o.dpi):
        say(f"wrote {path}")
    return 0


def compare(arguments: List[str], command: Sequence[str] = ()) -> int:
    """``yolov5-featviz compare``: see :func:`yolov5_featviz.yolov5.compare.compare`."""
    from yolov5_featviz.compare.options import Options
    from yolov5_featviz.figures.spec import width_of
    from yolov5_featviz.yolov5 import compare as comparison

    parser = _Words(
        prog="yolov5-featviz compare",
        description="Show the same images to several models: figures on one scale, and tables of numbers.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--weights", nargs="+", required=True, help="two or more .pt checkpoints, the first to be compared with")
    add("--layers", nargs="+", required=True, help="17,20,23 for all of them, or a=17 b=20, by their names")
    add("--source", required=True, help="an image, a folder of images, or a pattern such as 'a/*.jpg'")
    add("--names", nargs="+", default=[], help="of the models; default: of the files, or the folders they are in")
    add(
        "--labels", metavar="DIR", help="label files; default: 'labels' for 'images' in the path, else what is detected"
    )
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="input size; default 640")
    add("--conf-thres", type=float, default=0.25, help="default 0.25")
    add("--iou-thres", type=float, default=0.45, help="default 0.45")
    add("--reduce", default="mean", help="channels to a heat map: mean (default), sum, max, select-max, l2, std")
    add("--cmap", default="jet", help="any matplotlib colour map; default jet")
    add("--alpha", type=float, default=0.4, help="strength of the heat over the image; default 0.4")
    add("--format", default="png", help="comma list of png, pdf, svg, jpg, tif")
    add("--dpi", type=int, default=300, help="default 300")
    add("--width", default="ieee-page", help="inches, or ieee-column, cvpr-page, nature-double...; default ieee-page")
    add("--project", default="runs/compare", help="default runs/compare")
    add("--name", default="exp", help="default exp; exp2 and so on if it is there")
    add("--yolov5", nargs="+", default=[], metavar="DIR", help="the checkout of all models, or of each")
    add("--quiet", action="store_true", help="say only what went wrong")
    add("--verbose", action="store_true", help="name every file")
    add("--trust-weights", action="store_true", help="unpickle without any check")
    o = parser.parse_args(arguments)
    if o.quiet and o.verbose:
        raise FeatvizError("--quiet and --verbose: take one of them")
    asked = Options(
        weights=o.weights,
        layers=o.layers,
        source=o.source,
        names=o.names,
        labels=o.labels,
        imgsz=o.imgsz,
        conf=o.conf_thres,
        iou=o.iou_thres,
        reduce=o.reduce,
        cmap=o.cmap,
        alpha=o.alpha,
        formats=_words(o.format),
        dpi=o.dpi,
        width=width_of(o.width),
        project=o.project,
        name=o.name,
        yolov5=o.yolov5,
        trust=o.trust_weights,
        say=int(o.verbose) - int(o.quiet),
    )
    return comparison.compare(asked, command or ["compare", *arguments], say)


def info(arguments: List[str]) -> int:
    """``yolov5-featviz info``: see :func:`yolov5_featviz.runs.provenance.read`."""
    from yolov5_featviz.runs.provenance import as_json, read, tell

    parser = _Words(prog="yolov5-featviz info", description="Tell how a figure was made.", allow_abbrev=False)
    parser.add_argument("figure", metavar="FIGURE", help="a file written by yolov5-featviz")
    parser.add_argument("--json", action="store_true", help="as JSON")
    o = parser.parse_args(arguments)
    about = read(o.figure)
    out(as_json(about) if o.json else tell(about))
    return 0


def redo(arguments: List[str]) -> int:
    """``yolov5-featviz redo``: see :func:`yolov5_featviz.yolov5.redo.redo`."""
    from yolov5_featviz.yolov5 import redo as again

    parser = _Words(prog="yolov5-featviz redo", description="Make a figure again and compare both.", allow_abbrev=False)
    parser.add_argument("figure", metavar="FIGURE", help="a file written by yolov5-featviz")
    parser.add_argument("--weights", nargs="+", default=[], help="the checkpoints, if they are not found by name")
    parser.add_argument("--source", help="the image, if it is not found by name")
    parser.add_argument("--yolov5", metavar="DIR", help="the YOLOv5 checkout to use")
    parser.add_argument(
        "--run", action="store_true", help="run the figure's command whatever it is: it can do all that you can"
    )
    parser.add_argument("--trust-weights", action="store_true", help="unpickle without any check")
    o = parser.parse_args(arguments)
    return again.redo(o.figure, _again, o.weights, o.source, o.yolov5, tell=out, trust=o.trust_weights, anything=o.run)


def _again(words: List[str], command: Sequence[str]) -> int:
    """Run a command for which another is recorded: the one that it repeats."""
    if words[:1] == ["run"]:
        return run(words[1], words[2:], command=command)
    commands: Dict[str, Callable[..., int]] = {"image": image, "figure": figure, "compare": compare}
    return commands[words[0]](words[1:], command)


def image(arguments: List[str], command: Sequence[str] = ()) -> int:
    """``yolov5-featviz image``: see :func:`yolov5_featviz.runs.images.run_images`."""
    from yolov5_featviz.runs.images import run_images
    from yolov5_featviz.runs.look import Look
    from yolov5_featviz.runs.provenance import made

    parser = _Words(
        prog="yolov5-featviz image", description="Put images through a model and draw its layers.", allow_abbrev=False
    )
    parser.add_argument(
        "--model", required=True, help="torchvision:resnet50, timm:resnet50, module:function or file.py:function"
    )
    parser.add_argument(
        "--layers", required=True, help="layer1 | layer* | features.5 | Bottleneck | -2 | 0-3 | all, or a comma list"
    )
    parser.add_argument("--source", required=True, help="an image, a folder of images, or a pattern such as 'a/*.jpg'")
    parser.add_argument(
        "--weights", help="a state dict, or 'default' to download the library's; else those at hand, or random ones"
    )
    parser.add_argument(
        "--imgsz", type=int, help="bring images to a square; default: the model's own way, or 384 if it says none"
    )
    parser.add_argument("--trust-weights", action="store_true", help="unpickle without any check")
    parser.add_argument("--visualize-dir", metavar="DIR", help="where the pictures go; default runs/featviz/exp")
    _look_flags(parser)
    _report_flags(parser)
    o = parser.parse_args(arguments)
    look = Look(**_look(o))
    if look.boxes:
        raise FeatvizError("--visualize-boxes: `image` knows of no detections; `run detect.py` does")
    zoo = _zoo_model(o)
    about = made(command or ["image", *arguments], [o.weights] if o.weights == zoo.weights else [])
    return run_images(zoo, o.layers, o.source, look, o.visualize_dir, say, about, **_report(o))


def _zoo_model(o: argparse.Namespace) -> Any:
    from yolov5_featviz.models.zoo import load_model
    from yolov5_featviz.yolov5.weights.checkpoint import load_checkpoint

    sizes = o.imgsz if isinstance(o.imgsz, int) else None
    if sizes is not None and sizes < 1:
        raise FeatvizError(f"--imgsz {sizes}: take 1 or more")
    zoo = load_model(o.model, o.weights, sizes, lambda path: load_checkpoint(path, trust=o.trust_weights))
    if not getattr(o, "visualize_quiet", False):
        say(f"{__version__}, {o.model}, weights: {zoo.weights}")
    return zoo


def main(arguments: Optional[List[str]] = None) -> int:
    """The console script.

    Returns:
        The exit code: 0 done, 1 something failed while running, 2 the input is wrong; 130, 143 or 129 if ended by
        SIGINT, SIGTERM or SIGHUP.
    """
    return guarded(lambda: _command(sys.argv[1:] if arguments is None else arguments))


def guarded(command: Callable[[], int]) -> int:
    """Run a command; return its exit code. What is the user's mistake, or the machine's, is told in one line."""
    with streams():
        try:
            with stop.signals():
                code = _told(command)
                number = stop.asked()
                if number is not None and number != signal.SIGINT:  # which the script took for Ctrl-C, and handled
                    code = 128 + number
        except KeyboardInterrupt as error:
            stopped = stop.Stopped.of(error)
            say(str(stopped))
            code = stopped.code
        return finish(code)


def _told(command: Callable[[], int]) -> int:
    try:
        return command()
    except FeatvizError as error:
        return fail(error)
    except BrokenPipeError:  # who reads along, `head` for instance, has seen enough
        return 1
    except OSError as error:
        words = error.strerror or reason(error)
        say(f"error: {f'{printable(error.filename)}: ' if error.filename else ''}{words}")
        return 2 if error.errno == errno.ENAMETOOLONG else 1
    except SystemExit as end:  # argparse has shown its help
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if stop.asked():  # some libraries make an error of their own of the interrupt
            raise stop.Stopped.of(error) from None
        raise


def _command(arguments: List[str]) -> int:
    commands: Dict[str, Callable[..., int]] = {
        "layers": layers,
        "patch": patch,
        "image": image,
        "figure": figure,
        "compare": compare,
        "info": info,
        "redo": redo,
    }
    if arguments[:1] == ["run"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        return run(arguments[1], arguments[2:])
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    if arguments == ["--version"]:
        out(__version__)
        return 0
    out(USAGE + flags().format_help().rstrip())
    return 0 if arguments in (["-h"], ["--help"], ["run", "-h"], ["run", "--help"]) else 2


def fail(error: FeatvizError) -> int:
    """Tell a user's mistake in one line; return the exit code for it."""
    say("error: " + printable(" ".join(str(error).split())))
    return 2


def launch(here: Path) -> int:
    """What ``detect.py`` beside this package does: run YOLOv5's own ``detect.py`` with what stands on the line."""
    return guarded(lambda: run("detect.py", sys.argv[1:], here / "weights", here=False))
