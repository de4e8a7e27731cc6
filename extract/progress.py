"""What a person sees while a run goes on: a live line on a terminal, a log line now and then elsewhere.

Everything goes to standard error; standard output belongs to the result.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from extract.outcome import OK

_LOG_SECONDS = 10.0
_TOLD_FAILURES = 20  # beyond these only the count goes on; the index has them all


class Progress:
    """Counts clips and frames of a run, and shows them.

    Parameters
    ----------
    clips : int
        To be done.
    quiet : bool
        Show nothing at all.
    verb, things, steps : str
        What the run, its clips and their steps are called: a run over text counts captions and tokens.
    """

    def __init__(
        self, clips: int, *, quiet: bool = False, verb: str = "extract", things: str = "clips", steps: str = "steps"
    ) -> None:
        self._clips, self._quiet = clips, quiet
        self._verb, self._things, self._steps = verb, things, steps
        self._console = Console(stderr=True, highlight=False)
        self._began = self._logged = time.monotonic()
        self._frames = 0
        self._statuses: Counter[str] = Counter()
        self._bar: Bar | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Bar(
                TextColumn("extracting"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[told]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("extract", total=clips, told="")

    def frames(self, count: int) -> None:
        """Count steps that the model has done."""
        self._frames += count
        self._show()

    def clip(self, status: str, clip_id: str, message: str) -> None:
        """Count a clip that is through, and tell of it if it failed."""
        self._statuses[status] += 1
        if status != OK:
            told = sum(self._statuses.values()) - self._statuses[OK]
            if told <= _TOLD_FAILURES:
                self.note(f"{clip_id}: {status}: {message}")
            if told == _TOLD_FAILURES:
                self.note(f"more {self._things} that fail are counted, and not told one by one")
        self._show()

    def note(self, text: str) -> None:
        """Tell one line."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def status_line(self) -> str:
        """Rates, failures and the time left, in words."""
        seconds, done = max(time.monotonic() - self._began, 1e-9), sum(self._statuses.values())
        failed = done - self._statuses[OK]
        words = [f"{done / seconds:.1f} {self._things}/s", f"{self._frames / seconds:.0f} {self._steps}/s"]
        if failed:
            words.append(f"{failed} failed")
        if 0 < done < self._clips:
            words.append(f"{_duration((self._clips - done) * seconds / done)} left")
        return ", ".join(words)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._log()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=sum(self._statuses.values()), told=self.status_line())
        elif time.monotonic() - self._logged >= _LOG_SECONDS:
            self._log()

    def _log(self) -> None:
        self._logged = time.monotonic()
        self.note(
            f"{self._verb}: {sum(self._statuses.values()):,} of {self._clips:,} {self._things}, {self.status_line()}"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
