"""Command line: parse arguments, call the library. torch is not imported before a command runs."""

from yolov5_featviz.cli.entry import guarded, launch, main

__all__ = ["guarded", "launch", "main"]
