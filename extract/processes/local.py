"""Extraction processes on this machine: start them, receive their messages, notice their end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Protocol

from supportset._process import sleeping_threads, threads_of
from supportset.extract.processes.worker_process import Answer, Message, Order

_LAST_WORDS = 300


@dataclass(frozen=True)
class Gone:
    """Event: a process has ended.

    Attributes
    ----------
    how : str
        How it ended, as in "cuda:1 <how>".
    suspect : bool
        Whether the clips that it processed may have caused it.
    """

    how: str
    suspect: bool


class WorkerProcess(Protocol):
    """An extraction process, on this machine or another."""

    @property
    def name(self) -> str:
        """Name in messages to the user."""
        ...

    def send(self, answer: Answer) -> None:
        """Answer the oldest open question; a process that has ended is noticed by its event."""
        ...

    def interrupt(self) -> None:
        """Have it seal complete clips and end."""
        ...


class WorkerProcesses(Protocol):
    """Starts extraction processes and receives their messages."""

    def start(self, place: str) -> WorkerProcess:
        """Start a process at one of the places; it may take a while."""
        ...

    def events(self, seconds: float) -> Sequence[tuple[WorkerProcess, Message | Gone]]:
        """Return the messages received within so many seconds; a process's ``Gone`` is its last."""
        ...

    def close(self) -> None:
        """Kill the processes that still run."""
        ...


class LocalProcess:
    """An extraction process of this machine.

    Parameters
    ----------
    order : Order
        With the device of this process.
    name : str
    """

    def __init__(self, order: Order, name: str) -> None:
        self._name = name
        ours, theirs = socket.socketpair()
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        paths = [os.path.abspath(path) for path in sys.path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "supportset.extract.processes.worker_process", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                process_group=0,  # Ctrl-C on the terminal is for the scheduler's process
                env=os.environ
                | threads_of(order.settings.cores)
                | sleeping_threads()
                | {"PYTHONPATH": os.pathsep.join(paths)},
            )
        finally:
            theirs.close()
        self.link = Connection(ours.detach())
        self._send(order)

    @property
    def name(self) -> str:
        """Name in messages to the user."""
        return self._name

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, answer: Answer) -> None:
        """Answer a question."""
        self._send(answer)

    def interrupt(self) -> None:
        """Have it seal complete clips and end."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> str:
        """Wait for a process that has closed its pipe; return how it ended."""
        try:
            code = self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            code = self.kill()
        self.link.close()
        words = self._last_words()
        return f"died: {_how(code)}" + (f": {words}" if words else "")

    def kill(self) -> int:
        """Kill the process; return its exit code."""
        self._process.kill()
        return self._process.wait()

    def _send(self, message: Order | Answer) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(message)

    def _last_words(self) -> str:
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - 2 * _LAST_WORDS))
        return " ".join(self._words.read().decode(errors="replace").split())[-_LAST_WORDS:]


class LocalProcesses:
    """Extraction processes on the devices of this machine.

    Parameters
    ----------
    order : Order
        The device in its settings is replaced by that of each process.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._running: list[LocalProcess] = []

    def start(self, place: str) -> LocalProcess:
        """Start a process; ``place`` is its device, and after a blank what distinguishes it from others."""
        process = LocalProcess(self._order.with_settings(device=place.partition(" ")[0]), place)
        self._running.append(process)
        return process

    def events(self, seconds: float) -> list[tuple[LocalProcess, Message | Gone]]:
        """Return the messages received within so many seconds."""
        ready = set(wait([process.link for process in self._running], seconds))
        found: list[tuple[LocalProcess, Message | Gone]] = []
        for process in [process for process in self._running if process.link in ready]:
            try:
                while process.link.poll():
                    found.append((process, process.link.recv()))
            except (EOFError, ConnectionResetError):
                self._running.remove(process)
                found.append((process, Gone(process.end(), suspect=True)))
        return found

    def close(self) -> None:
        """Kill the processes that still run."""
        for process in self._running:
            process.kill()
            process.link.close()
        self._running = []


def _how(code: int) -> str:
    if code == -9:
        return "killed by signal 9 (perhaps by the system, which was out of memory)"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
