"""Execute a script as ``__main__``."""

from __future__ import annotations

import argparse
import inspect
import sys
import traceback
import types
from pathlib import Path
from typing import Any, Callable, Dict, List

from yolov5_featviz import stop
from yolov5_featviz.errors import FeatvizError, reason


class Script(types.ModuleType):
    """Type of ``sys.modules["__main__"]`` while a script runs under this package."""


def execute(path: Path, arguments: List[str], function_too: bool = False) -> int:
    """Run ``path`` as ``python path arguments...`` would; return its exit code.

    If ``function_too`` is set and the script only defines a function of its own name, call that.
    """
    try:
        code = compile(path.read_bytes(), str(path), "exec")
    except (SyntaxError, ValueError) as error:  # ValueError for null bytes, until Python 3.11
        raise FeatvizError(f"{path} is not a Python script: {reason(error)}") from None
    main = Script("__main__")
    main.__dict__.update(__file__=str(path), __builtins__=__builtins__)
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv = [str(path), *arguments]
    # sys.path[0] is the console script's folder; the script expects its own there.
    sys.path[:1] = [str(path.resolve().parent)]
    sys.modules["__main__"] = main
    try:
        exec(code, main.__dict__)
        function = main.__dict__.get(path.stem)
        if function_too and "__main__" not in code.co_consts and callable(function):
            _call(function, arguments)
    except (FeatvizError, KeyboardInterrupt):
        raise
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        if stop.asked():  # some libraries convert the interrupt to another exception
            raise stop.Stopped.of(error) from None
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != str(path):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace or error.__traceback__)
        return 1
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before
    return 0


def _call(function: Callable[..., Any], arguments: List[str]) -> None:
    """Call the function of a script that does not parse the command line, as in the 4.0 wheels."""
    parser = argparse.ArgumentParser()
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        options: Dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default)}
        if default in (None, parameter.empty):
            options = {"type": str, "required": default is parameter.empty}
        parser.add_argument(*{f"--{name}", f"--{name.replace('_', '-')}"}, dest=name, default=default, **options)
    function(**vars(parser.parse_args(arguments)))
