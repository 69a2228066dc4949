"""Run folder: one folder of pictures per image, the report, and a summary in the log."""

from __future__ import annotations

import os
import traceback
from concurrent.futures import as_completed
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from yolov5_featviz import stop
from yolov5_featviz.attribution.explain import Explanation
from yolov5_featviz.draw.channels import Choice
from yolov5_featviz.draw.scale import end_words
from yolov5_featviz.files import new_folder, write
from yolov5_featviz.leftovers import clean_run
from yolov5_featviz.models.layer_output import LayerOutput
from yolov5_featviz.runs.look import Look
from yolov5_featviz.runs.names import TAKEN
from yolov5_featviz.runs.progress import progress
from yolov5_featviz.runs.report import Report
from yolov5_featviz.runs.report_data import Part
from yolov5_featviz.runs.saver import Failures, Saver
from yolov5_featviz.text import printable

Files = Tuple[str, Callable[..., Iterable[Tuple[str, bytes]]]]
BEST = 5  # channels of a ranking to log


class RunFolder:
    """Draw and write the pictures of a run in the background.

    Args:
        look: what to draw, and how.
        log: called with each message.
        report: also write the report; see :class:`yolov5_featviz.runs.report.Report`.
        about: a line about the run, for the report.
        say: verbosity: 1 to log every file and full rankings, -1 for errors only.
        what: what is drawn, for the summary.

    As a context manager it is closed on exit. After an interrupt, closing takes a few seconds at most: queued
    jobs are dropped, the report shows what was drawn, and the exception lists what was written.

    Attributes:
        folders: the images' folders so far.
        failures: pictures that could not be saved; complete once closed.
        errors: all errors, including those of the report.
    """

    def __init__(
        self,
        look: Look,
        log: Callable[[str], None],
        report: bool = True,
        about: str = "",
        say: int = 0,
        what: str = "feature map",
    ) -> None:
        self.look, self.log, self.say, self.about, self.what = look, log, say, about, what
        self.folders: List[Path] = []
        self.failures, self._page_failures = Failures(), Failures()
        self._home = Path()
        self._filled: Dict[Path, int] = {}  # files written per folder
        self._drawn = 0
        self._saver = Saver()
        # a thread of its own, so that the report does not delay the pictures
        self._reporter: Optional[Saver] = Saver() if report else None
        self._report: Optional[Report] = None
        self._page: Optional[Path] = None

    @property
    def errors(self) -> List[BaseException]:
        return self.failures.errors + self._page_failures.errors

    @property
    def ranked(self) -> Optional[Callable[[LayerOutput, Choice], None]]:
        """Callback that logs chosen channels; None after the first image, unless verbose (files hold all rankings)."""
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
        explanations: Sequence[Explanation] = (),
    ) -> None:
        """Queue the files of an image, to be written into a new folder.

        Args:
            home: the run folder, the same for all images.
            name: of the image, see :mod:`yolov5_featviz.runs.names`; the folder gets a number appended if taken.
            files: pairs of a sub-folder's name, or "", and a function that yields (file name, bytes) pairs
                when called with ``made``, which returns their record.
            parts, image, explanations: for the report; see :meth:`yolov5_featviz.runs.report.Report.add`.
            group: a folder in between, and the image's group in the report.
            made: returns the record of the image's files; called in the background.
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
            record = partial(_made, made, Path(os.path.relpath(folder / part, home)).as_posix())
            self._saver.submit(partial(self._save, contents(made=record), folder, part), size // len(files))
        if self._reporter is not None:
            self._report = self._report or Report(home, self.about, self.look)
            link = os.path.relpath(folder, home)
            size += sum(one.heat.values.nbytes for one in explanations) + getattr(image, "nbytes", 0)
            self._reporter.submit(
                partial(self._add_to_report, name, parts, image, group, link, pixels, list(explanations)), size
            )

    def __enter__(self) -> RunFolder:
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
        """Wait until all is written, and log a summary."""
        jobs = [*self._saver.pending, *(self._reporter.pending if self._reporter is not None else ())]
        for _ in progress(as_completed(jobs), "drawing", len(jobs)) if self.say == 0 else ():
            pass
        self._end(None)
        self._log_failures()
        if self._filled and self.say >= 0:
            folders = [f"{os.path.relpath(folder, self._home)}/" for folder in self.folders if folder in self._filled]
            more = f" and {len(folders) - 5} more" if len(folders) > 5 else ""
            names = ", ".join(map(printable, folders[:5]))
            self.log(f"{self._drawn} {self.what}{'s' * (self._drawn != 1)} in {self._home}: {names}{more}")
        if self._page is not None and self.say >= 0:
            self.log(f"open {self._page}")

    def _hurry(self, stopped: Optional[BaseException]) -> None:
        """Finish what can be finished within a few seconds."""
        stop.last_words()
        dropped = self._end(stop.GRACE)
        self._log_failures()
        files = sum(self._filled.values())
        words = f"{files} picture{'s' * (files != 1)} written"
        words += f" in {self._home}" if self.folders else ""
        words += f", {dropped} {self.what}s not drawn" if dropped else ""
        words += f"; open {self._page}" if self._page is not None else ""
        if isinstance(stopped, KeyboardInterrupt):
            stopped.written = words  # type: ignore[attr-defined]
        elif self.say >= 0:
            self.log(words)

    def _end(self, seconds: Optional[float]) -> int:
        """Wait for at most ``seconds`` and write the report; return how many feature maps were dropped."""
        dropped = self._saver.wait(seconds)
        self._saver.close(seconds is None)
        if self._reporter is not None:
            self._reporter.wait(None if seconds is None else seconds / 2)
            self._reporter.submit(self._finish)
            self._reporter.wait(seconds)
            self._reporter.close(seconds is None)
        return dropped

    def _log_failures(self) -> None:
        for line in (*self.failures.lines(), *self._page_failures.lines()):
            self.log(f"error: {line}")
        if self.say > 0:
            for error in self.errors:
                traceback.print_exception(type(error), error, error.__traceback__)
        if self.errors:
            for folder in set(self.folders) - set(self._filled):
                with suppress(OSError):
                    folder.rmdir()  # only if empty

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
                        self.log(f"wrote {folder / part / name}")
        except Exception as error:
            whole = False
            self.failures.add(f"{below()}/", error)
        self._drawn += whole

    def _add_to_report(self, name: str, *arguments: Any) -> None:
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

    def _ranked(self, feature_map: LayerOutput, choice: Choice) -> None:
        ranking = choice.ranking
        if ranking is None:
            return
        if self.say > 0:
            self.log(f"{feature_map.title}\n{ranking.table(len(choice.channels))}")
            return
        first = choice.channels[:BEST]
        scores = end_words(*(ranking.scores[ranking.by][k] for k in first))
        best = ", ".join(f"{k} ({score})" for k, score in zip(first, scores))
        self.log(f"{feature_map.title}: best channels {ranking.note or f'by {ranking.by}'}: {best}")


def _made(made: Optional[Callable[[], Mapping[str, Any]]], folder: str) -> Dict[str, Any]:
    return {**(made() if made else {}), "folder": folder}
