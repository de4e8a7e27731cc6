"""Decode workers as the main process sees them: jobs in, frames and outcomes out, also when a worker dies.

Each worker process has its pipe and its ring of frame slots, and shares no lock: a killed worker does not touch the
others. Frames stay in the ring until they are taken. So a slow consumer stops the workers, and the slots bound the
memory, not the length of a video.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from supportset._process import THREADS
from supportset.extract.outcome import Outcome
from supportset.extract.workers.decode_worker import Arrived, Begun, ClipResult, Job, Setup
from supportset.extract.workers.frame_ring import FrameRing
from supportset.extract.workers.retries import Pass, group_jobs
from supportset.store.errors import SupportsetError
from supportset.store.format.status import CRASHED, TIMEOUT

_AHEAD = 4  # clips that a worker holds, so that it never waits for the next one
_POLL_SECONDS = 0.5
_START_SECONDS = 300.0  # for imports from a slow network disk
_IDLE_DEATHS = 5  # workers in a row that die without a clip


class StepFrames(NamedTuple):
    """A decoded step of a job. ``frames`` is a view of shared memory: copy it before the next event."""

    number: int
    frames: np.ndarray
    start_s: float
    end_s: float


class DecodePool:
    """A fixed number of decode workers; one that dies is replaced.

    Parameters
    ----------
    setup : Setup
        What each worker receives.
    workers : int
        Processes, each with one decoding thread.
    timeout : float
        Seconds without a heartbeat after which a worker is killed; a clip may take longer in all.

    Examples
    --------
    >>> with DecodePool(setup, workers=2) as pool:                  # doctest: +SKIP
    ...     for event in pool.run(jobs):
    ...         if isinstance(event, StepFrames):
    ...             batch[n] = event.frames
    """

    def __init__(self, setup: Setup, workers: int, timeout: float = 600.0) -> None:
        self._setup, self._timeout = setup, timeout
        self._workers: list[_Process] = []
        self._again: deque[Pass] = deque()  # what failed passes leave
        self._delivered: dict[int, int] = {}  # steps of unfinished jobs
        self._idle_deaths = 0
        self._stopped = False
        try:
            for _ in range(workers):
                self._workers.append(_Process(setup))
        except OSError as error:
            self.close()
            raise SupportsetError(f"a decode worker could not be started: {error}; try fewer --workers") from error

    def run(self, jobs: Iterator[Job]) -> Iterator[StepFrames | ClipResult]:
        """Decode all jobs. Yield the steps of each in order, then how it ended; steps of different jobs are mixed.

        Adjacent jobs of one file are decoded in one pass over it. A worker that dies or hangs costs the clip that it
        decodes, which ends as ``crashed`` or ``timeout``. ``workers.retries`` says which other clips are tried again.

        Parameters
        ----------
        jobs : iterator of Job
            Their numbers are unique.

        Raises
        ------
        SupportsetError
            Workers cannot start.
        """
        passes, left = group_jobs(jobs), True
        while not self._stopped:
            while (least := min(self._workers, key=lambda worker: worker.clips)).clips < _AHEAD:
                found = self._again.popleft() if self._again else next(passes, None) if left else None
                if found is None:
                    left = False
                    break
                least.give(found)
            if not left and not any(worker.passes for worker in self._workers):
                return
            ready = set(wait([worker.link for worker in self._workers], _POLL_SECONDS))
            for place, worker in enumerate(self._workers):
                alive = True
                if worker.link in ready:
                    alive = yield from self._receive(worker)
                if not alive:
                    yield from self._replace(place, None)
                elif worker.silent_for() > (limit := self._timeout if worker.started else _START_SECONDS):
                    yield from self._replace(place, f"no progress for {limit:g} s")

    @property
    def blocked(self) -> float:
        """Share of the workers that now wait for a free slot; safe from another thread."""
        workers = list(self._workers)
        return sum(worker.ring.waiting and worker.ring.job is not None for worker in workers) / max(1, len(workers))

    def stop(self) -> None:
        """Make :meth:`run` end soon, with jobs left; safe from another thread."""
        self._stopped = True

    def close(self) -> None:
        """Kill all workers; clips being decoded are dropped."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, worker: _Process) -> Generator[StepFrames | ClipResult, None, bool]:
        """Yield what a worker has sent so far; return False when it is dead."""
        freed = 0
        try:
            while worker.link.poll() and freed < self._setup.slots:
                message = worker.link.recv()
                if message is None:
                    worker.started = True
                elif isinstance(message, Begun):
                    worker.passes[0].begin(message.number)
                elif isinstance(message, Arrived):
                    number, frames = message.number, worker.ring.slot(worker.received)
                    worker.received += 1
                    freed += 1
                    if worker.passes[0].step(number) == self._delivered.get(
                        number, 0
                    ):  # else: delivered before a failure
                        self._delivered[number] = self._delivered.get(number, 0) + 1
                        yield StepFrames(number, frames, message.start_s, message.end_s)
                elif isinstance(message, ClipResult):
                    worker.passes[0].end(message.number)
                    if not worker.passes[0].jobs:
                        worker.passes.popleft()
                    yield self._finish(message)
                elif isinstance(message, Outcome):
                    yield from self._fail(worker.passes.popleft(), message, worker.at_work_for())
        except (EOFError, ConnectionResetError):
            return False
        if freed:
            worker.give(freed)
        return True

    def _replace(self, place: int, hanging: str | None) -> Iterator[ClipResult]:
        """Replace a dead or hanging worker; the new one gets the passes that were not begun."""
        old = self._workers[place]
        code = old.stop() if hanging else old.join()
        if not old.started:
            raise SupportsetError(f"a decode worker did not start ({hanging or _how(code)}): {old.last_words()}")
        if not old.passes or old.passes[0].name != old.ring.job:
            self._idle_deaths += 1
            if self._idle_deaths >= _IDLE_DEATHS:
                raise SupportsetError(f"decode workers keep dying ({_how(code)}): {old.last_words()}")
        else:
            words = old.last_words()
            message = hanging or f"the decode worker died: {_how(code)}" + (f": {words}" if words else "")
            outcome = Outcome(TIMEOUT if hanging else CRASHED, message)
            yield from self._fail(old.passes.popleft(), outcome, old.at_work_for())
        self._workers[place] = new = _Process(self._setup)
        for rest in old.passes:
            new.give(Pass.of(rest.jobs.values()))

    def _fail(self, failed: Pass, outcome: Outcome, seconds: float) -> Iterator[ClipResult]:
        """End the clips that a failed pass costs, and put the others back."""
        lost, again = failed.after_failure()
        self._again.extend(again)
        for job in lost:
            yield self._finish(ClipResult(job.number, outcome, seconds / len(lost)))

    def _finish(self, finished: ClipResult) -> ClipResult:
        self._idle_deaths = 0
        self._delivered.pop(finished.number, None)
        return finished


class _Process:
    """One worker process: its pipe, its ring, the passes it holds, and its standard error."""

    def __init__(self, setup: Setup) -> None:
        ours, theirs = socket.socketpair()
        memory = FrameRing.create(setup.shape, setup.slots)
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        paths = [os.path.abspath(path) for path in sys.path]
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "supportset.extract.workers.decode_worker",
                    str(theirs.fileno()),
                    str(memory),
                ],
                pass_fds=(theirs.fileno(), memory),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                process_group=0,  # the main process handles Ctrl-C on the terminal
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | dict.fromkeys(THREADS, "1"),
            )
            self.ring = FrameRing(memory, setup.shape, setup.slots)
        finally:
            theirs.close()
            os.close(memory)
        self.link = Connection(ours.detach())
        self.passes: deque[Pass] = deque()
        self.started = False
        self.received = 0
        self._heartbeats, self._since = 0, time.monotonic()
        self._job_since: tuple[int | None, float] = (None, time.monotonic())
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(setup)

    @property
    def clips(self) -> int:
        """Number of clips that the worker holds."""
        return sum(len(one.jobs) for one in self.passes)

    def give(self, message: Pass | int) -> None:
        """Send a pass, or a number of free slots; reading from a dead worker will notice its death."""
        if isinstance(message, Pass):
            self.passes.append(message)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(tuple(message.jobs.values()) if isinstance(message, Pass) else message)

    def silent_for(self) -> float:
        """Seconds without a heartbeat while the worker has something to do."""
        now, heartbeats, job = time.monotonic(), self.ring.heartbeats, self.ring.job
        if heartbeats != self._heartbeats or self.ring.waiting or (self.started and job is None):
            self._heartbeats, self._since = heartbeats, now
        if job != self._job_since[0]:
            self._job_since = job, now
        return now - self._since

    def at_work_for(self) -> float:
        """Seconds since the worker was first seen at its current job."""
        return time.monotonic() - self._job_since[1]

    def join(self) -> int:
        """Wait for a process that has closed its pipe; return its exit code."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self.link.close()
        return code

    def stop(self) -> int:
        """Kill the process."""
        self._process.kill()
        return self.join()

    def last_words(self) -> str:
        """The end of the standard error, in one line."""
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - 400))
        return " ".join(self._words.read().decode(errors="replace").split())[-300:]


def _how(code: int) -> str:
    if code == -9:
        return "killed by signal 9 (perhaps by the system, which ran out of memory)"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
