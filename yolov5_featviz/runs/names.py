"""Unique folder names for images."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePath
from typing import Dict, Iterable, List, Set, Union

from yolov5_featviz.text import file_name

TAKEN = "~"  # between a taken name and a number


def image_names(paths: Iterable[Union[str, PurePath]]) -> List[str]:
    """Name the folders of several images, independent of their order.

    A name is the stem of the file; if two images share it, the file name; if they share that too, with
    parent folders as prefix: ``a_x.jpg`` and ``b_x.jpg``. A repeated file gets a numeric suffix,
    ``x~2``. No name collides with that of another image by any of these rules.

    Args:
        paths: the files, including repetitions.

    Returns:
        One name per path, valid as a folder name and unique.
    """
    every = [str(path) for path in paths]
    forms = {path: _forms(path) for path in every}
    level = dict.fromkeys(forms, 0)
    while True:
        names = {path: forms[path][level[path]] for path in forms}
        groups: Dict[str, List[str]] = {}
        for path, name in names.items():
            groups.setdefault(name, []).append(path)
        moved = False
        for name, group in groups.items():
            if len(group) > 1 or _is_numbered(name):
                lowest = min(level[path] for path in group)
                for path in group:
                    if level[path] == lowest and lowest < len(forms[path]) - 1:
                        level[path] += 1
                        moved = True
        if not moved:
            break
    last: Dict[str, int] = Counter()
    taken = set(names.values())
    found: Dict[str, List[str]] = {path: [] for path in forms}
    for name, group in groups.items():  # still ambiguous
        for i, path in enumerate(sorted(group)):
            found[path].append(name if i == 0 else _free(name, taken, last))
    result = []
    for path in every:
        if not found[path]:
            found[path].append(_free(names[path], taken, last))
        result.append(found[path].pop(0))
    return result


class Names:
    """Incremental version of :func:`image_names`, for images that are not known in advance.

    The first image gets its stem, another file with that stem its file name, and so on; names that were
    given do not change.
    """

    def __init__(self, known: Iterable[Union[str, PurePath]] = ()) -> None:
        self._names: Dict[str, str] = {}
        self._taken: Dict[str, str] = {}
        self._videos: Dict[str, str] = {}
        self.learn(known)

    def learn(self, paths: Iterable[Union[str, PurePath]]) -> None:
        """Name images that are known to follow, unless they have a name already."""
        new = [path for path in dict.fromkeys(map(str, paths)) if path not in self._names]
        for path, name in zip(new, image_names(new)):
            self._give(path, [name, *_forms(path)])

    def __call__(self, path: Union[str, PurePath]) -> str:
        """Return the name of an image."""
        path = str(path)
        if path not in self._names:
            self._give(path, _forms(path))
        return self._names[path]

    def frame(self, path: Union[str, PurePath], number: int) -> str:
        """Return the name of a video frame: ``video_7``, or ``video.mp4_7`` if an image has a name of that form."""
        path = str(path)
        if path not in self._videos:
            name = self(path)
            form = re.compile(rf"{re.escape(name)}_\d+")
            if any(form.fullmatch(other) for other in self._taken):
                name = next((one for one in _forms(path)[1:] if one not in self._taken), name)
            self._videos[path] = name
        return f"{self._videos[path]}_{number}"

    def _give(self, path: str, forms: List[str]) -> None:
        free = (form for form in forms if form not in self._taken and not _is_numbered(form))
        name = next(free, "") or _free(forms[-1], set(self._taken), Counter())
        self._names[path] = name
        self._taken[name] = path


def _forms(path: str) -> List[str]:
    """List candidate names of an image, shortest first."""
    parts = [part for part in PurePath(path).parts if part not in ("/", "\\", "..")] or ["image"]
    stem = PurePath(parts[-1]).stem or "image"
    forms = [stem, *("_".join(parts[-n:]) for n in range(1, len(parts) + 1))]
    return list(dict.fromkeys(file_name(form) for form in forms))


def _is_numbered(name: str) -> bool:
    return re.search(rf"{TAKEN}\d+$", name) is not None


def _free(name: str, taken: Set[str], last: Dict[str, int]) -> str:
    while True:
        last[name] = max(last.get(name, 1), 1) + 1
        free = f"{name}{TAKEN}{last[name]}"
        if free not in taken:
            taken.add(free)
            return free
