"""Alias of :mod:`yolov5_featviz.runs.report`, for scripts that import ``Report`` from here."""

from yolov5_featviz.runs.report import Report

__all__ = ["Report"]
