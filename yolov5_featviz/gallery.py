"""The folder of a run: a folder of pictures for each image, a page about all of them, and a summary in words."""

from __future__ import annotations

import os
import traceback
from concurrent.futures import as_completed
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from yolov5_featviz import stop
from yolov5_featviz.capture import FeatureMap
from yolov5_featviz.channels import Choice
from yolov5_featviz.leftovers import clean_run
from yolov5_featviz.names import TAKEN
from yolov5_featviz.pictures import Look
from yolov5_featviz.progress import progress
from yolov5_featviz.report import Part, Report
from yolov5_featviz.save import Failures, Saver, new_folder, write
from yolov5_featviz.text import printable

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

    In a ``with`` statement it is closed at the end. After an interrupt that takes a few seconds at most: what is
    queued then is dropped, the page shows what was drawn, and the exception knows what was written.

    Attributes:
        folders: the images' folders so far.
        failures: the pictures that could not be saved, once it is closed.
        errors: all that went wrong, with the page, too.
    """

    def __init__(
        self, look: Look, tell: Callable[[str], None], report: bool = True, about: str = "", say: int = 0
    ) -> None:
        self.look, self.tell, self.say, self.about = look, tell, say, about
        self.folders: List[Path] = []
        self.failures, self._page_failures = Failures(), Failures()
        self._home = Path()
        self._filled: Dict[Path, int] = {}  # folders with what there is in each
        self._drawn = 0
        self._saver = Saver()
        # a thread of its own: the pictures are waited for, the page is not
        self._reporter: Optional[Saver] = Saver() if report else None
        self._report: Optional[Report] = None
        self._page: Optional[Path] = None

    @property
    def errors(self) -> List[BaseException]:
        return self.failures.errors + self._page_failures.errors

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
            name: of the image, see :mod:`yolov5_featviz.names`; its folder gets a number behind it if that is taken.
            files: pairs of a folder's name below that, or "", and of what draws names and contents when it is
                told, in ``made``, who says how they came about.
            parts, image: what the page gets; see :meth:`yolov5_featviz.report.Report.add`.
            group: a folder in between, and the image's group on the page.
            made: says how the image's files came about; is asked in the background.
            pixels: height and width of the image, if ``image`` is a smaller copy of it.
        """
        if not self.folders:
            self._home = home
            self._saver.submit(partial(clean_run, home))
        try:
            folder = new_folder(home / group / name, TAKEN)
        except (OSError, ValueError) as error:
            self.failures.add(f"{os.path.join(group, name)}/", error)
            return
        self.folders.append(folder)
        files = list(files)
        made = made and lru_cache(maxsize=None)(made)
        size = sum(fm.data.numel() * fm.data.element_size() for _, maps in parts for fm in maps)
        for part, contents in files:
            told = partial(_made, made, Path(os.path.relpath(folder / part, home)).as_posix())
            self._saver.submit(partial(self._save, contents(made=told), folder, part), size // len(files))
        if self._reporter is not None:
            self._report = self._report or Report(home, self.about, self.look)
            link = os.path.relpath(folder, home)
            self._reporter.submit(
                partial(self._tell_report, name, parts, image, group, link, pixels),
                size + getattr(image, "nbytes", 0),
            )

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt) or stop.asked():
            self._hurry(error)
            return
        try:
            self.close()
        except KeyboardInterrupt as stopped:
            self._hurry(stopped)
            raise

    def close(self) -> None:
        """Wait until all is written, and say what and where."""
        jobs = [*self._saver.pending, *(self._reporter.pending if self._reporter is not None else ())]
        for _ in progress(as_completed(jobs), "drawing", len(jobs)) if self.say == 0 else ():
            pass
        self._end(None)
        self._tell_failures()
        if self._filled and self.say >= 0:
            folders = [f"{os.path.relpath(folder, self._home)}/" for folder in self.folders if folder in self._filled]
            more = f" and {len(folders) - 5} more" if len(folders) > 5 else ""
            names = ", ".join(map(printable, folders[:5]))
            self.tell(f"{self._drawn} feature map{'s' * (self._drawn != 1)} in {self._home}: {names}{more}")
        if self._page is not None and self.say >= 0:
            self.tell(f"open {self._page}")

    def _hurry(self, stopped: Optional[BaseException]) -> None:
        """Bring to safety what can be within a few seconds."""
        stop.last_words()
        dropped = self._end(stop.GRACE)
        self._tell_failures()
        files = sum(self._filled.values())
        words = f"{files} picture{'s' * (files != 1)} written"
        words += f" in {self._home}" if self.folders else ""
        words += f", {dropped} feature maps not drawn" if dropped else ""
        words += f"; open {self._page}" if self._page is not None else ""
        if isinstance(stopped, KeyboardInterrupt):
            stopped.written = words  # type: ignore[attr-defined]
        elif self.say >= 0:
            self.tell(words)

    def _end(self, seconds: Optional[float]) -> int:
        """Wait, so long at most, and write the page; return how many feature maps were dropped."""
        dropped = self._saver.wait(seconds)
        self._saver.close(seconds is None)
        if self._reporter is not None:
            self._reporter.wait(None if seconds is None else seconds / 2)
            self._reporter.submit(self._finish)
            self._reporter.wait(seconds)
            self._reporter.close(seconds is None)
        return dropped

    def _tell_failures(self) -> None:
        for line in (*self.failures.lines(), *self._page_failures.lines()):
            self.tell(f"error: {line}")
        if self.say > 0:
            for error in self.errors:
                traceback.print_exception(type(error), error, error.__traceback__)
        if self.errors:
            for folder in set(self.folders) - set(self._filled):
                with suppress(OSError):
                    folder.rmdir()  # which is empty

    def _save(self, files: Iterable[Tuple[str, bytes]], folder: Path, part: str) -> None:
        whole = True

        def below() -> Path:
            return Path(os.path.relpath(folder, self._home)) / part

        try:
            for name, content in files:
                try:
                    write(folder / part / name, content)
                except OSError as error:
                    whole = False
                    self.failures.add(str(below() / name), error)
                else:
                    self._filled[folder] = self._filled.get(folder, 0) + 1
                    if self.say > 0:
                        self.tell(f"wrote {folder / part / name}")
        except Exception as error:
            whole = False
            self.failures.add(f"{below()}/", error)
        self._drawn += whole

    def _tell_report(self, name: str, *arguments: Any) -> None:
        assert self._report is not None
        try:
            self._report.add(name, *arguments)
        except Exception as error:
            self._page_failures.add(f"{name} in index.html", error)

    def _finish(self) -> None:
        try:
            self._page = self._report.close() if self._report is not None else None
        except Exception as error:
            self._page_failures.add("index.html", error)

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
