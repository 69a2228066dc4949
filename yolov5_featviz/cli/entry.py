"""Console script: dispatch commands, turn exceptions into one-line errors and exit codes."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from yolov5_featviz import stop
from yolov5_featviz.cli import compare, explain, faithfulness, figure, image, info, layers, patch, redo, run
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import finish, out, say, streams
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.text import near, printable
from yolov5_featviz.version import __version__

MODULES = (run, explain, faithfulness, layers, image, figure, compare, patch, info, redo)
COMMANDS: Dict[str, Any] = {module.NAME: module for module in MODULES}
WITHOUT_TORCH = ("patch", "info")


def parser() -> Parser:
    """Build the parser of the whole command line, with a sub-parser for each command."""
    top = Parser(
        prog="yolov5-featviz",
        description="Draw what chosen layers of a detector, or of any other PyTorch model, respond to.",
        epilog="yolov5-featviz COMMAND --help lists the flags of a command, with examples.",
    )
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)
    for name, module in COMMANDS.items():
        described = f"{module.HELP[0].upper()}{module.HELP[1:]}."
        command = commands.add_parser(name, help=module.HELP, description=described, epilog=module.EXAMPLES)
        module.add_arguments(command)
    return top


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the console script.

    Returns:
        The exit code: 0 done, 1 something failed while running, 2 the input is wrong; 130, 143 or 129 if ended by
        SIGINT, SIGTERM or SIGHUP.
    """
    return guarded(lambda: dispatch(sys.argv[1:] if arguments is None else arguments))


def launch(here: Path) -> int:
    """Run YOLOv5's own ``detect.py`` with the program's arguments; called by the ``detect.py`` beside this package."""
    return guarded(lambda: run.run_script("detect.py", sys.argv[1:], here / "weights", here=False))


def dispatch(arguments: List[str], recorded: Sequence[str] = ()) -> int:
    """Run one command; files record ``recorded``, if given, as the command line instead of ``arguments``."""
    if arguments[:1] == ["--version"]:
        out(__version__)
        return 0
    if not arguments:
        raise FeatvizError(f"no command: take one of {', '.join(COMMANDS)}; see yolov5-featviz --help")
    name = arguments[0]
    if name not in COMMANDS and name not in ("-h", "--help"):
        kind = "flag" if name.startswith("-") else "command"
        words = near(name, [*COMMANDS, "--help", "--version"], "see yolov5-featviz --help")
        raise FeatvizError(f"no {kind} {printable(name, 80)!r}{words}")
    if name == "run" and arguments[1:] not in (["-h"], ["--help"]):
        if len(arguments) == 1 or arguments[1].startswith("-"):
            raise FeatvizError("run: give a script first, such as: yolov5-featviz run detect.py --weights best.pt")
        return run.run_script(arguments[1], arguments[2:], command=recorded)
    o = parser().parse_args(arguments, argparse.Namespace(again=_again, strict=not recorded))
    if name not in WITHOUT_TORCH:
        with stop.starting():
            import torch  # noqa: F401
    code: int = COMMANDS[name].execute(o, recorded or arguments)
    return code


def _again(words: List[str], recorded: Sequence[str]) -> int:
    return dispatch(words, recorded)


def guarded(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; print user and system errors as one line."""
    with streams():
        try:
            with stop.signals():
                code = _exit_code(command)
                number = stop.asked()
                if number is not None and number != signal.SIGINT:  # the script handled it as Ctrl-C
                    code = 128 + number
        except KeyboardInterrupt as error:
            stopped = stop.Stopped.of(error)
            say(str(stopped))
            code = stopped.code
        return finish(code)


def _exit_code(command: Callable[[], int]) -> int:
    try:
        return command()
    except FeatvizError as error:
        say("error: " + printable(" ".join(str(error).split())))
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        return 1
    except OSError as error:
        words = error.strerror or reason(error)
        say(f"error: {f'{printable(error.filename)}: ' if error.filename else ''}{words}")
        return 2 if error.errno == errno.ENAMETOOLONG else 1
    except SystemExit as end:  # argparse has printed its help
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if stop.asked():  # some libraries convert the interrupt to another exception
            raise stop.Stopped.of(error) from None
        raise
