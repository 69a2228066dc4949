"""Compatibility of old releases with current libraries, while a script runs or modules are imported.

Independent of the release. Names that libraries have removed are restored, and what a script would
download or install (a font, its requirements, a file from a model hub) is provided or disabled.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import re
import sys
import warnings
from contextlib import suppress
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any, Dict

import numpy as np

from yolov5_featviz.leftovers import remove_own, temporary_folder
from yolov5_featviz.yolov5.script.monkeypatch import Patches
from yolov5_featviz.yolov5.source import Source

# aliases of builtin types, removed in numpy 1.24, and names removed in 2.0 and 2.4
_NUMPY = {"int": int, "float": float, "bool": bool, "object": object, "str": str, "float_": np.float64}
# functions that run pip or check the network
_ENVIRONMENT = {"YOLOv5_AUTOINSTALL": "false", "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
_SETTINGS = ("~/.config", "~/Library/Application Support", "~/AppData/Roaming")


class Surroundings:
    """Context in which any release can be imported and, if ``script``, its scripts run."""

    def __init__(self, source: Source, script: bool = True) -> None:
        self._source = source
        self._script = script
        self._patches = Patches()
        self._environment = dict(os.environ)
        self._modules: Dict[str, Any] = {}

    def __enter__(self) -> Surroundings:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._give_back_names()
        self._provide_fonts()
        self._provide_pkg_resources()
        if self._source.package and (self._script or not _is_there("huggingface_hub")):
            self._provide_hub()
        if self._script:
            self._keep_local()
        return self

    def __exit__(self, *_: Any) -> None:
        self._patches.undo()
        for name, module in self._modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        for name in (*_ENVIRONMENT, "YOLOV5_CONFIG_DIR"):
            if name in self._environment:
                os.environ[name] = self._environment[name]
            else:
                os.environ.pop(name, None)

    def _give_back_names(self) -> None:
        for name, value in _NUMPY.items():
            if name not in vars(np):
                self._patches.set(np, name, value)
        if not hasattr(np, "trapz"):
            self._patches.set(np, "trapz", np.trapezoid)
        from PIL import ImageFont

        if not hasattr(ImageFont.FreeTypeFont, "getsize"):  # until Pillow 9
            self._patches.set(ImageFont.FreeTypeFont, "getsize", lambda font, text: font.getbbox(text)[2:])

    def _keep_local(self) -> None:
        """Skip the GitHub lookup that some releases do before checking for a local file."""
        try:
            with self._source.importable(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(f"{self._source.package}.models.experimental".lstrip("."))
        except Exception:
            return  # the script will raise and report the same error
        real = getattr(module, "attempt_download", None)
        if real is None:
            return

        @functools.wraps(real)
        def attempt_download(file: Any, *args: Any, **kwargs: Any) -> Any:
            path = str(file).strip().replace("'", "")
            return path if Path(path).is_file() else real(file, *args, **kwargs)

        self._patches.set(module, "attempt_download", attempt_download)

    def _provide_fonts(self) -> None:
        """Provide the font that YOLOv5 would download to its settings folder."""
        if "YOLOV5_CONFIG_DIR" in os.environ:
            return
        if any((Path(folder).expanduser() / "Ultralytics" / "Arial.ttf").is_file() for folder in _SETTINGS):
            return
        with suppress(OSError):  # no space or no symlinks: YOLOv5 then finds a font itself
            os.environ["YOLOV5_CONFIG_DIR"] = _settings_folder()

    def _provide_pkg_resources(self) -> None:
        """Provide ``pkg_resources``, with which releases up to 7.0 check and install requirements."""
        general = self._source.root / "utils" / "general.py"
        if not general.is_file() or "pkg_resources" not in general.read_text(encoding="utf-8", errors="replace"):
            return
        if _is_there("pkg_resources"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is deprecated
                real = importlib.import_module("pkg_resources")
            self._patches.set(real, "require", lambda *_: [])
            return
        self._module(
            "pkg_resources",
            parse_version=_parse_version,
            parse_requirements=lambda _: [],
            require=lambda *_: [],
            DistributionNotFound=type("DistributionNotFound", (Exception,), {}),
            VersionConflict=type("VersionConflict", (Exception,), {}),
        )

    def _provide_hub(self) -> None:
        """Disable the model hub, where packages from 7.0.7 on look up even local files."""
        absent = type("HFValidationError", (ValueError,), {})

        def nothing(*_: Any, **__: Any) -> Any:
            raise absent("not looked for on the hub")

        self._module("huggingface_hub", list_repo_files=nothing, hf_hub_download=nothing, __path__=[])
        self._module("huggingface_hub.utils", RepositoryNotFoundError=absent, HFValidationError=absent, __path__=[])
        self._module("huggingface_hub.utils._errors", RepositoryNotFoundError=absent)
        self._module("huggingface_hub.utils._validators", HFValidationError=absent)

    def _module(self, name: str, **contents: Any) -> None:
        if name in sys.modules:
            return
        module = ModuleType(name)
        vars(module).update(contents)
        self._modules[name] = sys.modules[name] = module


@functools.lru_cache(maxsize=None)
def _settings_folder() -> str:
    """Create a folder with a font that lasts as long as the process: YOLOv5 stores its path on import."""
    from matplotlib import get_data_path

    font = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    folder = temporary_folder()
    atexit.register(remove_own)
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        (Path(folder) / name).symlink_to(font)
    return folder


def _is_there(module: str) -> bool:
    return module in sys.modules or util.find_spec(module) is not None


def _parse_version(text: str) -> Any:
    if _is_there("packaging"):
        return importlib.import_module("packaging.version").parse(text)
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])
