"""The scheduler of a run on several processes: sends chunks, receives progress, reassigns chunks of lost processes."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from supportset.extract.processes.local import Gone, WorkerProcess, WorkerProcesses
from supportset.extract.processes.worker_process import Advance, Ask, Begun, Finished, Message, Note
from supportset.extract.progress.progress import Progress
from supportset.extract.work.chunks import ChunkBoard
from supportset.store.errors import SupportsetError
from supportset.store.format.status import MISSING

Settled = Callable[[Collection[str]], Mapping[str, tuple[str, str]]]

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0
_DEATHS = 5  # processes in a row that may end at one place without finishing a clip


def schedule(
    processes: WorkerProcesses,
    places: Sequence[str],
    board: ChunkBoard[WorkerProcess],
    settled: Settled,
    shown: Progress,
) -> None:
    """Run one extraction process at each place until the work on the board is done.

    A lost process is replaced; its clips that the store does not have go to other processes.

    Parameters
    ----------
    processes : WorkerProcesses
    places : sequence of str
        Names that differ.
    board : ChunkBoard
    settled : callable
        Given clip ids, returns those that the store has now, with status and message.
    shown : Progress

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, after all processes have sealed complete clips; on a second Ctrl-C at once.
    SupportsetError
        A process met an error that ends the run, or processes keep dying. The others have sealed their clips.
    """
    scheduler = _Scheduler(processes, places, board, settled, shown)
    try:
        with _stop_requests() as stop:
            try:
                scheduler.work(stop)
            except SupportsetError:
                scheduler.stop()
                raise
            if stop.is_set():
                scheduler.stop()
                raise KeyboardInterrupt
    finally:
        processes.close()


class _Scheduler:
    def __init__(
        self,
        processes: WorkerProcesses,
        places: Sequence[str],
        board: ChunkBoard[WorkerProcess],
        settled: Settled,
        shown: Progress,
    ) -> None:
        self._processes, self._board, self._settled, self._shown = processes, board, settled, shown
        self._vacant = list(places)
        self._at: dict[WorkerProcess, str] = {}
        self._silent: set[WorkerProcess] = set()  # no request received yet
        self._waiting: list[WorkerProcess] = []  # all sealed, waiting for a chunk
        self._finished: dict[WorkerProcess, Finished] = {}
        self._deaths: Counter[str] = Counter()
        self._began: float | None = time.monotonic()

    def work(self, stop: threading.Event) -> None:
        while (self._at or not self._board.over) and not stop.is_set():
            self._fill()
            self._tell_waiting()
            for process, message in self._processes.events(_POLL_SECONDS):
                self._hear(process, message)
            for finished in self._finished.values():
                if finished.error is not None:
                    raise finished.error
            self._serve()

    def stop(self) -> None:
        """Have every process seal complete clips, and wait for it."""
        if self._at:
            self._shown.note(f"extract: stopping; {len(self._at)} processes store complete clips")
        for process in self._at:
            process.interrupt()
        while self._at:
            for process, message in self._processes.events(_POLL_SECONDS):
                if isinstance(message, Gone):
                    self._at.pop(process, None)
                elif isinstance(message, Advance | Note):
                    self._hear(process, message)

    def _fill(self) -> None:
        """Start processes at free places while there are unassigned chunks."""
        wanted = self._board.left - len(self._waiting) - len(self._silent)
        for place in self._vacant[: max(0, wanted)]:
            self._vacant.remove(place)
            process = self._processes.start(place)
            self._at[process] = place
            self._silent.add(process)
        if not self._at and not self._board.over:
            raise SupportsetError(
                "the extraction processes keep ending before their work is done, see above; complete clips are "
                "stored, and the same command resumes"
            )

    def _tell_waiting(self) -> None:
        """Report once that processes do not start: a cluster may have no room for them."""
        if self._began is not None and time.monotonic() - self._began > _PATIENCE_SECONDS:
            self._began = None
            if self._silent:
                self._shown.note(f"extract: {len(self._silent)} of {len(self._at)} processes have not started yet")

    def _serve(self) -> None:
        """Send chunks to waiting processes; at the end, send them the end."""
        for process in list(self._waiting):
            chunk = self._board.take(process)
            if chunk is not None or self._board.over:
                self._waiting.remove(process)
                process.send(chunk)
        if self._board.over:
            for process in self._silent:
                process.interrupt()
            self._silent.clear()

    def _hear(self, process: WorkerProcess, message: Message | Gone) -> None:
        self._silent.discard(process)
        if isinstance(message, Ask) and message.sealed:
            self._board.sealed(process)
            self._waiting.append(process)
        elif isinstance(message, Ask):
            process.send(self._board.take(process))
        elif isinstance(message, Advance):
            self._advance(process, message)
        elif isinstance(message, Begun):
            self._shown.pipeline(process=process.name, **message.facts)
        elif isinstance(message, Note):
            self._shown.note(f"{process.name}: {message.text}")
        elif isinstance(message, Finished):
            self._finished[process] = message
        else:
            self._lose(process, message)

    def _advance(self, process: WorkerProcess, message: Advance) -> None:
        self._shown.frames(message.frames)
        self._shown.spent(message.spent)
        for status, clip_id, told in message.clips:
            self._deaths[self._at[process]] = 0
            if self._board.through(clip_id):
                self._shown.clip(status, clip_id, told)

    def _lose(self, process: WorkerProcess, gone: Gone) -> None:
        place, finished = self._at.pop(process), self._finished.pop(process, None)
        if process in self._waiting:
            self._waiting.remove(process)
        suspect = gone.suspect and finished is None
        settled = self._settled(self._board.held_by(process))
        for clip_id, (status, told) in settled.items():
            if status != MISSING and self._board.through(clip_id):
                self._shown.clip(status, clip_id, told)
        count = self._board.lost(process, settled, suspect=suspect)
        if self._board.over:
            return
        self._deaths[place] += 1
        again = self._deaths[place] < _DEATHS
        if again:
            self._vacant.append(place)
        how = gone.how if finished is None else "was stopped from outside"
        rest = "a new process replaces it" if again else f"the {_DEATHS}th in a row: it is not replaced"
        self._shown.note(f"extract: {process.name} {how}; {count:,} clips are assigned again, {rest}")


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set instead of raising, so that no message is cut in two.

    A second Ctrl-C raises. Where signals cannot be handled nothing is changed.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
