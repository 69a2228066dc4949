"""The folder of a run: a folder of pictures for each image, a page about all of them, and a summary in words."""

from __future__ import annotations

import os
import traceback
from concurrent.futures import as_completed
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from yolov5_featviz.capture import FeatureMap
from yolov5_featviz.channels import Choice
from yolov5_featviz.pictures import Look
from yolov5_featviz.progress import progress
from yolov5_featviz.report import Part, Report
from yolov5_featviz.save import Saver, new_folder, write

Files = Tuple[str, Callable[..., Iterable[Tuple[str, bytes]]]]
BEST = 5  # channels of a ranking that are named in the log


class Gallery:
    """Writes in the background what is drawn of each image of a run.

    Args:
        look: what is drawn, and how.
        tell: is told what there is to say.
        report: write the page about the run, too; see :class:`yolov5_featviz.report.Report`.
        about: a line about the run, for that page.
        say: 1 to tell every file and whole rankings, -1 to tell only what went wrong.

    Attributes:
        folders: the images' folders so far.
        errors: what went wrong, once it is closed.
    """

    def __init__(
        self, look: Look, tell: Callable[[str], None], report: bool = True, about: str = "", say: int = 0
    ) -> None:
        self.look, self.tell, self.say, self.about = look, tell, say, about
        self.folders: List[Path] = []
        self._home = Path()
        self._saver = Saver()
        # a thread of its own: the pictures are waited for, the page is not
        self._reporter: Optional[Saver] = Saver() if report else None
        self._report: Optional[Report] = None
        self._page: Optional[Path] = None

    @property
    def errors(self) -> List[BaseException]:
        return self._saver.errors

    @property
    def ranked(self) -> Optional[Callable[[FeatureMap, Choice], None]]:
        """Tells which channels were chosen; None if nobody wants to know, since in full that is in files."""
        return self._ranked if self.say > 0 or (self.say == 0 and not self.folders) else None

    def add(
        self,
        home: Path,
        name: str,
        files: Iterable[Files],
        parts: Sequence[Part],
        image: Any = None,
        group: str = "",
        made: Optional[Callable[[], Mapping[str, Any]]] = None,
        pixels: Optional[Tuple[int, int]] = None,
    ) -> None:
        """Queue the files of an image, for a folder of its own.

        Args:
            home: the folder of the run, the same for all.
            name: of the image; its folder gets a number behind it if the name is taken.
            files: pairs of a folder's name below that, or "", and of what draws names and contents when it is
                told, in ``made``, who says how they came about.
            parts, image: what the page gets; see :meth:`yolov5_featviz.report.Report.add`.
            group: a folder in between, and the image's group on the page.
            made: says how the image's files came about; is asked in the background.
            pixels: height and width of the image, if ``image`` is a smaller copy of it.
        """
        self._home = home
        try:
            folder = new_folder(home / group / name)
        except OSError as error:
            self.errors.append(error)
            return
        self.folders.append(folder)
        files = list(files)
        made = made and lru_cache(maxsize=None)(made)
        size = sum(fm.data.numel() * fm.data.element_size() for _, maps in parts for fm in maps)
        for part, contents in files:
            told = partial(_made, made, Path(os.path.relpath(folder / part, home)).as_posix())
            self._saver.submit(partial(self._save, contents(made=told), folder / part), size // len(files))
        if self._reporter is not None:
            self._report = self._report or Report(home, self.about, self.look)
            link = os.path.relpath(folder, home)
            self._reporter.submit(
                partial(self._report.add, name, parts, image, group, link, pixels), size + getattr(image, "nbytes", 0)
            )

    def close(self) -> None:
        """Wait until all is written, and say what and where."""
        jobs = list(self._saver.pending)
        if self._reporter is not None:
            self._reporter.submit(self._finish)
            jobs += self._reporter.pending
        for _ in progress(as_completed(jobs), "drawing", len(jobs)) if self.say == 0 else ():
            pass
        self._saver.close()
        if self._reporter is not None:
            self._reporter.close()
            self.errors.extend(self._reporter.errors)
        for text in sorted({str(error) for error in self.errors}):
            self.tell(f"error: could not save: {text}")
        if self.say > 0:
            for error in self.errors:
                traceback.print_exception(type(error), error, error.__traceback__)
        if self.folders and self.say >= 0:
            done = self._saver.done
            names = ", ".join(f"{os.path.relpath(folder, self._home)}/" for folder in self.folders[:5])
            more = f" and {len(self.folders) - 5} more" if len(self.folders) > 5 else ""
            self.tell(f"{done} feature map{'s' * (done != 1)} in {self._home}: {names}{more}")
            if self._page is not None:
                self.tell(f"open {self._page}")

    def _save(self, files: Iterable[Tuple[str, bytes]], folder: Path) -> None:
        for name, content in files:
            write(folder / name, content)
            if self.say > 0:
                self.tell(f"wrote {folder / name}")

    def _finish(self) -> None:
        self._page = self._report.close() if self._report is not None else None

    def _ranked(self, feature_map: FeatureMap, choice: Choice) -> None:
        ranking = choice.ranking
        if ranking is None:
            return
        if self.say > 0:
            self.tell(f"{feature_map.title}\n{ranking.table(len(choice.channels))}")
            return
        best = ", ".join(f"{k} ({ranking.scores[ranking.by][k]:.3g})" for k in choice.channels[:BEST])
        self.tell(f"{feature_map.title}: best channels {ranking.note or f'by {ranking.by}'}: {best}")


def _made(made: Optional[Callable[[], Mapping[str, Any]]], folder: str) -> Dict[str, Any]:
    return {**(made() if made else {}), "folder": folder}
