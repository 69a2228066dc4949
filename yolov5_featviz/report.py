"""The report under the name that scripts import it by; see :mod:`yolov5_featviz.runs.report`."""

from yolov5_featviz.runs.report import Report

__all__ = ["Report"]
