"""Argument parsers with one-line errors that suggest the nearest valid word."""

from __future__ import annotations

import argparse
import re
from typing import Any, Iterable, List, Tuple

from yolov5_featviz.cli import flags as table
from yolov5_featviz.console import out
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.text import near, printable


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises FeatvizError and prints help with :func:`yolov5_featviz.console.out`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> Any:
        found = re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL)
        if found:
            word = found[1].split()[0]
            known = [name for name in self._option_string_actions if name.startswith("--")]
            kind = "flag" if word.startswith("-") else "argument"
            raise FeatvizError(f"no {kind} {printable(word.split('=')[0], 80)}{near(word.split('=')[0], known)}")
        raise FeatvizError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for word in args or ():
            name, _, value = word.partition("=")
            if name.startswith("--") and value == "--":  # argparse would make a list of it
                self.error(f"{name} needs a value, not --")
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:  # not in parse_args, which is not called for sub-parsers
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed, rest

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            out(message.rstrip("\n"))


def run_flags() -> Parser:
    """Build the parser of the flags that ``run`` adds to those of the script."""
    parser = Parser(prog="yolov5-featviz", usage=argparse.SUPPRESS, add_help=False)
    add_run_flags(parser)
    return parser


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``run`` that are not the script's own."""
    group = parser.add_argument_group("flags added by yolov5-featviz")
    table.add(group, table.RUN, table.PREFIX)
    table.add(group, table.OWN_NAMES)


def split(arguments: Iterable[str]) -> Tuple[List[str], List[str]]:
    """Split the command line into our flags, as ``--flag=value``, and the rest, unchanged and in order."""
    actions = run_flags()._option_string_actions
    takes = {name: not isinstance(action, argparse._StoreTrueAction) for name, action in actions.items()}
    ours: List[str] = []
    rest: List[str] = []
    words = iter(arguments)
    for word in words:
        name = word.split("=", 1)[0]
        if word == "--":
            return ours, [*rest, word, *words]
        if name not in takes:
            if re.match("--visuali[sz]e[-_]", name):
                raise FeatvizError(f"no flag {name}{near(name, takes)}")
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
