"""Progress of a run: a live line on a terminal, log lines elsewhere.

It goes to standard error, because the result goes to standard output, and into the run's log.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from supportset.extract.progress.interrupted import Interrupted
from supportset.extract.progress.run_log import RunLog, command_line
from supportset.extract.progress.stage_timing import Pace, Spent
from supportset.store.format.status import OK

_LINE_SECONDS = 10.0  # seconds between lines where there is no terminal
_LOG_SECONDS = 30.0  # seconds between entries of the log
_RATE_SECONDS = 60.0  # seconds that rates and the time left refer to
_TOLD_FAILURES = 20  # failures printed; the index has all of them

Observer = Callable[[str, dict[str, Any]], None]  # takes the name of an event, and its facts


class Progress:
    """Counts the clips and frames of a run, and shows them.

    Parameters
    ----------
    clips : int
        Clips to extract.
    quiet : bool
        Whether nothing is shown.
    verb, things, steps : str
        Words for the run, its clips and their steps: a run over text counts captions and tokens.
    log : RunLog, optional
        Receives all events; closed at the end.
    observer : callable, optional
        Takes ``"start", {"file"}`` when a file is given to a decode worker of this process, ``"clip", {"clip_id",
        "status", "message"}`` for each finished clip, and ``"note", {"text"}`` for a line to the user; from any
        thread.
    """

    def __init__(
        self,
        clips: int,
        *,
        quiet: bool = False,
        verb: str = "extract",
        things: str = "clips",
        steps: str = "frames",
        log: RunLog | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._clips, self._quiet = clips, quiet
        self._verb, self._things, self._steps = verb, things, steps
        self._console = Console(stderr=True, highlight=False)
        self._began = self._told = self._logged = time.monotonic()
        self._frames = 0
        self._statuses: Counter[str] = Counter()
        self._past: deque[tuple[float, int, int]] = deque([(self._began, 0, 0)])
        self._pace, self._workers = Pace(), 1
        self._log, self._observer = log, observer
        if log is not None:
            log.tell = self.note
        self._bar: _Display | None = None
        if self._console.is_terminal and not quiet:
            self._bar = _Display(self, self._console)
            self._task = self._bar.add_task("extract", total=clips)

    def begin(self, told: str, **facts: Any) -> None:
        """Print a line about a run that starts, and log all of its facts."""
        self.note(told)
        if self._log is not None:
            self._log.write("start", command=command_line(), clips=self._clips, **facts)

    def frames(self, count: int) -> None:
        """Count frames that the model has computed."""
        self._frames += count
        self._show()

    def starts(self, file: str) -> None:
        """Tell the observer that the clips of a file are decoded from now on."""
        if self._observer is not None:
            self._observer("start", {"file": file})

    def clip(self, status: str, clip_id: str, message: str) -> None:
        """Count a finished clip, and report it if it failed."""
        self._statuses[status] += 1
        if self._observer is not None:
            self._observer("clip", {"clip_id": clip_id, "status": status, "message": message})
        if status != OK:
            if self._log is not None:
                self._log.write("clip", clip_id=clip_id, status=status, message=message)
            told = self._done - self._statuses[OK]
            if told <= _TOLD_FAILURES:
                self.note(f"{clip_id}: {status}: {message}")
            if told == _TOLD_FAILURES:
                self.note(f"more {self._things} that fail are counted only")
        self._show()

    def pipeline(self, **facts: Any) -> None:
        """Note the start of a pipeline: its device, and ``workers``, the number of its decode processes."""
        self._workers = facts.get("workers", self._workers)
        if self._log is not None:
            self._log.write("pipeline", **facts)

    def spent(self, spent: Spent) -> None:
        """Add the stage times of a pipeline."""
        self._pace.add(spent)

    def note(self, text: str) -> None:
        """Tell one line."""
        if self._observer is not None:
            self._observer("note", {"text": text})
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def status_line(self) -> str:
        """Return rates, failures, the time left and the slowest stage, all of the last minute, as text."""
        words = self._rates(*self._past[0])
        if slowest := self._pace.now():
            words.append(f"{slowest} sets the pace")
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
            self._bar = None
        pace = self._pace.in_words(self._workers)
        if kind is None:
            if pace:
                self.note(f"{self._verb}: {pace}")
            self._line(", ".join(self._rates(self._began, 0, 0)))
        if self._log is not None:
            stopped = isinstance(error, KeyboardInterrupt | Interrupted)
            outcome = "finished" if kind is None else "stopped" if stopped else "failed"
            message = str(error) or getattr(kind, "__name__", "") if error is not None else ""
            self._log.write("end", outcome=outcome, message=message, **self._counts(), pace=pace)
            self._log.close()

    @property
    def _done(self) -> int:
        return self._statuses.total()

    def _rates(self, since: float, done_then: int, frames_then: int) -> list[str]:
        seconds, done, failed = time.monotonic() - since, self._done, self._done - self._statuses[OK]
        rate = (done - done_then) / max(seconds, 1e-9)
        words = [
            f"{rate:.1f} {self._things}/s",
            f"{(self._frames - frames_then) / max(seconds, 1e-9):.0f} {self._steps}/s",
        ]
        if failed:
            words.append(f"{failed:,} failed")
        if rate and done < self._clips:
            words.append(f"{_duration((self._clips - done) / rate)} left")
        return words

    def _counts(self) -> dict[str, Any]:
        return {
            "clips": self._clips,
            "done": self._done,
            "status": dict(self._statuses),
            "frames": self._frames,
            "seconds": round(time.monotonic() - self._began, 3),
            "spent": {stage: round(seconds, 3) for stage, seconds in asdict(self._pace.total).items()},
        }

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._past[-1][0] >= 1:
            self._past.append((now, self._done, self._frames))
            while now - self._past[0][0] > _RATE_SECONDS:
                self._past.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif now - self._told >= _LINE_SECONDS:
            self._told = now
            self._line(self.status_line())
        if self._log is not None and now - self._logged >= _LOG_SECONDS:
            self._logged = now
            self._log.write("progress", **self._counts(), slowest=self._pace.now())

    def _line(self, told: str) -> None:
        self.note(f"{self._verb}: {self._done:,} of {self._clips:,} {self._things}, {told}")


class _Display(Bar):
    """A bar, and below it the status line, refreshed with the display."""

    def __init__(self, shown: Progress, console: Console) -> None:
        columns = TextColumn("extracting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._shown = shown
        super().__init__(*columns, console=console, refresh_per_second=4)

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the lines that are drawn."""
        yield from super().get_renderables()
        yield Text(self._shown.status_line(), no_wrap=True, overflow="ellipsis")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
