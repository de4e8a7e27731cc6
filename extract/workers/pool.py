"""Decode workers seen from the main process: jobs in, frames and outcomes out, whatever happens to a worker.

Each worker is a process with a pipe and a ring of frame slots of its own, and shares no lock with anybody: when one is
killed, nothing of the others is touched. Frames stay in the ring until they are taken, so a slow consumer stops the
workers, and memory is bounded by the slots, never by a video.
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

from supportset.extract.outcome import CRASHED, TIMEOUT
from supportset.extract.workers.decode_worker import Arrived, Begun, Ended, Failed, Job, Setup
from supportset.extract.workers.frame_ring import FrameRing
from supportset.extract.workers.retries import Pass, group_jobs
from supportset.store.errors import SupportsetError

_AHEAD = 4  # clips a worker has in hand, so that it never waits for the next one
_POLL_SECONDS = 0.5
_START_SECONDS = 300.0  # for imports from a slow network disk
_IDLE_DEATHS = 5  # workers in a row that die without a clip to blame
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class StepFrames(NamedTuple):
    """A decoded step. ``frames`` is a view of shared memory: copy it before asking for the next event."""

    job: Job
    frames: np.ndarray
    start_s: float
    end_s: float


class ClipEnd(NamedTuple):
    """The end of a job: all its steps have been yielded before. See ``decode_worker.Ended``."""

    job: Job
    status: str
    message: str
    seconds: float
    hash: str | None


class DecodePool:
    """A fixed number of decode workers, replaced when they die.

    Parameters
    ----------
    setup : Setup
        Sampling, transform, shape of a step, and slots of each worker.
    workers : int
        Processes, each with one decoding thread.
    timeout : float
        Seconds a clip may go without any progress (not: take in all) before its worker is killed.

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
        self._again: deque[Pass] = deque()  # what failed passes left
        self._delivered: dict[int, int] = {}  # steps of clips that have not ended
        self._idle_deaths = 0
        self._stopped = False
        try:
            for _ in range(workers):
                self._workers.append(_Process(setup))
        except OSError as error:
            self.close()
            raise SupportsetError(f"a decode worker could not be started: {error}; try fewer --workers") from error

    def run(self, jobs: Iterator[Job]) -> Iterator[StepFrames | ClipEnd]:
        """Decode all jobs; yields the steps of each in order, then its end. Steps of different jobs are mixed.

        Adjacent jobs of one file are decoded in one pass over it. A worker that dies or hangs costs the clip it was at,
        which ends as ``crashed`` or ``timeout``; ``workers.retries`` tells what becomes of the others of its pass.

        Parameters
        ----------
        jobs : iterator of Job
            Each with a number of its own.

        Raises
        ------
        SupportsetError
            If workers cannot start.
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
        """Share of the workers that wait for room for a step at this moment; may be asked from another thread."""
        workers = list(self._workers)
        return sum(worker.ring.waiting and worker.ring.job is not None for worker in workers) / max(1, len(workers))

    def stop(self) -> None:
        """Make :meth:`run` end soon, whatever is left; may be called from another thread than runs it."""
        self._stopped = True

    def close(self) -> None:
        """Stop all workers at once; running clips are dropped."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, worker: _Process) -> Generator[StepFrames | ClipEnd, None, bool]:
        """Yield what a worker has sent so far; returns False when it is dead."""
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
                    if worker.passes[0].step(number) == self._delivered.get(number, 0):  # else: given before a failure
                        self._delivered[number] = self._delivered.get(number, 0) + 1
                        yield StepFrames(worker.passes[0].jobs[number], frames, message.start_s, message.end_s)
                elif isinstance(message, Ended):
                    yield self._end(worker.passes[0].end(message.number), message)
                    if not worker.passes[0].jobs:
                        worker.passes.popleft()
                elif isinstance(message, Failed):
                    yield from self._fail(
                        worker.passes.popleft(), message.status, message.message, worker.at_work_for()
                    )
        except (EOFError, ConnectionResetError):
            return False
        if freed:
            worker.give(freed)
        return True

    def _replace(self, place: int, hanging: str | None) -> Iterator[ClipEnd]:
        """Put a new worker in the place of a dead or hanging one; it takes over the passes that were not begun."""
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
            status = TIMEOUT if hanging else CRASHED
            yield from self._fail(old.passes.popleft(), status, message, old.at_work_for())
        self._workers[place] = new = _Process(self._setup)
        for rest in old.passes:
            new.give(Pass.of(rest.jobs.values()))

    def _fail(self, failed: Pass, status: str, message: str, seconds: float) -> Iterator[ClipEnd]:
        """End the clips that a failed pass costs, and put the others back."""
        blamed, again = failed.after_failure()
        self._again.extend(again)
        for job in blamed:
            yield self._end(job, Ended(job.number, status, message, seconds / len(blamed)))

    def _end(self, job: Job, end: Ended) -> ClipEnd:
        self._idle_deaths = 0
        self._delivered.pop(job.number, None)
        return ClipEnd(job, end.status, end.message, end.seconds, end.hash)


class _Process:
    """One worker process: its pipe, its ring, the passes it holds, and what it said last on standard error."""

    def __init__(self, setup: Setup) -> None:
        ours, theirs = socket.socketpair()
        memory = FrameRing.create(setup.shape, setup.slots)
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
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
                process_group=0,  # Ctrl-C on the terminal is for the main process only
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | dict.fromkeys(_THREADS, "1"),
            )
            self.ring = FrameRing(memory, setup.shape, setup.slots)
        finally:
            theirs.close()
            os.close(memory)
        self.link = Connection(ours.detach())
        self.passes: deque[Pass] = deque()
        self.started = False
        self.received = 0
        self._beats, self._since = 0, time.monotonic()
        self._job_since: tuple[int | None, float] = (None, time.monotonic())
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(setup)

    @property
    def clips(self) -> int:
        """Clips that the worker has in hand."""
        return sum(len(one.jobs) for one in self.passes)

    def give(self, message: Pass | int) -> None:
        """Send a pass, or a number of slots that are free again; a worker that is dead is noticed when read from."""
        if isinstance(message, Pass):
            self.passes.append(message)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(tuple(message.jobs.values()) if isinstance(message, Pass) else message)

    def silent_for(self) -> float:
        """Seconds without a sign of life while the worker had something to do."""
        now, beats, job = time.monotonic(), self.ring.beats, self.ring.job
        if beats != self._beats or self.ring.waiting or (self.started and job is None):
            self._beats, self._since = beats, now
        if job != self._job_since[0]:
            self._job_since = job, now
        return now - self._since

    def at_work_for(self) -> float:
        """Seconds since the worker was first seen at its present job."""
        return time.monotonic() - self._job_since[1]

    def join(self) -> int:
        """Wait for a process that has closed its pipe; returns its exit code."""
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
        """The end of what the process wrote to standard error, in one line."""
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - 400))
        return " ".join(self._words.read().decode(errors="replace").split())[-300:]


def _how(code: int) -> str:
    if code == -9:
        return "killed by signal 9 (perhaps by the system, for want of memory)"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
