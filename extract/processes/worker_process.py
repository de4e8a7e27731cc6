"""One of several extraction processes: receives chunks and sends its progress through a pipe.

Started by ``processes.local`` as ``python -m supportset.extract.processes.worker_process SOCKET``.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from supportset._process import keep_freed_memory
from supportset.extract.backbones import load_backbone
from supportset.extract.pipeline.recipe import make_recipe
from supportset.extract.processes.extraction import ChunkSource, Settings, run_extraction
from supportset.extract.progress.progress import Progress
from supportset.extract.progress.stage_timing import Spent
from supportset.extract.work.chunks import Chunk
from supportset.store.errors import SupportsetError
from supportset.store.format.dataset import open_dataset

_TELL_SECONDS = 0.2  # seconds between two progress messages


@dataclass(frozen=True)
class Order:
    """Instructions to an extraction process, sent once.

    Attributes
    ----------
    settings : Settings
        Of the process.
    backbone : str
        By name.
    recipe : str
        Hash of the recipe; a process that computes another one refuses to work.
    folder : str
        Folder of relative paths, on machines that have it.
    tables : dict[str, Any], optional
        ``dataset.json`` of the scheduler's machine, to check that the store is the same one.
    seal_when_orphaned : bool
        Whether a process that has lost the scheduler seals complete clips, or ends at once (on Ray, where another
        process gets them).
    """

    settings: Settings
    backbone: str
    recipe: str
    folder: str
    tables: dict[str, Any] | None = None
    seal_when_orphaned: bool = True

    def with_settings(self, device: str = "", **changes: Any) -> Order:
        """The same with another device, or other settings."""
        if device:
            changes["execution"] = replace(self.settings.execution, device=device)
        return replace(self, settings=replace(self.settings, **changes))


@dataclass(frozen=True)
class Ask:
    """Message: request for a chunk. With ``sealed``, all earlier chunks are in the store."""

    sealed: bool


@dataclass(frozen=True)
class Advance:
    """Message: frames, finished clips as (status, clip_id, message), and stage times since the last one."""

    frames: int
    clips: tuple[tuple[str, str, str], ...]
    spent: Spent


@dataclass(frozen=True)
class Begun:
    """Message: a pipeline starts; the facts are those of ``Progress.pipeline``."""

    facts: dict[str, Any]


@dataclass(frozen=True)
class Note:
    """Message: a line for the user."""

    text: str


@dataclass(frozen=True)
class Finished:
    """Message: the process ends, with all complete clips sealed.

    Attributes
    ----------
    error : SupportsetError, optional
        The error that ends the run.
    interrupted : bool
        Whether it was stopped before all chunks were done.
    """

    error: SupportsetError | None = None
    interrupted: bool = False


Message = Ask | Advance | Begun | Note | Finished
Answer = Chunk | None
Send = Callable[[Message], None]


class _Teller(Progress):
    """Forwards the progress of a run, a few times a second."""

    def __init__(self, send: Send) -> None:
        super().__init__(0, quiet=True)
        self._send = send
        self._lock = threading.Lock()
        self._news = Advance(0, (), Spent())
        self._sent = time.monotonic()

    def frames(self, count: int) -> None:
        self._add(Advance(count, (), Spent()))

    def clip(self, status: str, clip_id: str, message: str) -> None:
        self._add(Advance(0, ((status, clip_id, message),), Spent()))

    def spent(self, spent: Spent) -> None:
        self._add(Advance(0, (), spent))

    def pipeline(self, **facts: Any) -> None:
        self._send(Begun(facts))

    def note(self, text: str) -> None:
        self._send(Note(text))

    def send_all(self) -> None:
        """Send the pending progress."""
        with self._lock:
            self._flush()

    def _add(self, new: Advance) -> None:
        with self._lock:
            old = self._news
            self._news = Advance(old.frames + new.frames, old.clips + new.clips, old.spent + new.spent)
            if time.monotonic() - self._sent >= _TELL_SECONDS:
                self._flush()

    def _flush(self) -> None:
        self._send(self._news)
        self._news, self._sent = Advance(0, (), Spent()), time.monotonic()


class _PipedChunks:
    """Chunks from the pipe; the next one is requested ahead, so that the pipeline does not wait."""

    def __init__(self, send: Send, inbox: SimpleQueue[Answer], teller: _Teller) -> None:
        self._send, self._inbox, self._teller = send, inbox, teller
        self._asked = False

    def wait(self) -> Chunk | None:
        """Report that everything is sealed and wait for the next chunk."""
        self._teller.send_all()
        self._ask(sealed=True)
        return self.more()

    def more(self) -> Chunk | None:
        """Return the chunk that was requested ahead."""
        if not self._asked:
            return None
        chunk, self._asked = self._inbox.get(), False
        if chunk is not None and not chunk.alone:
            self._ask(sealed=False)
        return chunk

    def _ask(self, *, sealed: bool) -> None:
        self._send(Ask(sealed))
        self._asked = True


def main(number: int) -> None:
    """Work for the scheduler at the other end of an inherited socket until there are no more chunks."""
    link = Connection(number)
    try:
        order: Order = link.recv()
    except EOFError:
        return
    keep_freed_memory()
    inbox: SimpleQueue[Answer] = SimpleQueue()
    outbox: SimpleQueue[Message | None] = SimpleQueue()
    _interrupt_once(inbox)
    threading.Thread(target=_read, args=(link, inbox, order.seal_when_orphaned), daemon=True).start()
    writer = threading.Thread(target=_write, args=(link, outbox), daemon=True)
    writer.start()
    try:
        teller = _Teller(outbox.put)
        run_ordered(order, _PipedChunks(outbox.put, inbox, teller), teller)
        outbox.put(Finished())
    except KeyboardInterrupt:
        outbox.put(Finished(interrupted=True))
    except SupportsetError as error:
        outbox.put(Finished(error))
    finally:
        outbox.put(None)
        writer.join()


def run_ordered(order: Order, chunks: ChunkSource, shown: Progress) -> None:
    """Load the backbone, check that it equals the scheduler's, and extract.

    Raises
    ------
    SupportsetError
        Videos, store or weights differ from the scheduler's; and those of
        :func:`supportset.extract.processes.extraction.run_extraction`.
    """
    settings, here = order.settings, socket.gethostname()
    with suppress(OSError):
        os.chdir(order.folder)
    if not settings.videos_root.is_dir():
        raise SupportsetError(
            f"{settings.videos_root}: no such folder on {here}; all machines of a run need the videos under one path"
        )
    if order.tables is not None:
        _check_store(settings, order.tables, here)
    backbone = load_backbone(order.backbone)
    if make_recipe(backbone, settings.sampling, settings.execution.dtype).hash != order.recipe:
        raise SupportsetError(
            f"{order.backbone}: has other weights or another transform on {here} than where the run was started; "
            "give all machines the same file and the same versions"
        )
    run_extraction(chunks, settings, backbone, shown)


def _check_store(settings: Settings, tables: dict[str, Any], here: str) -> None:
    try:
        same = open_dataset(settings.root, settings.dataset).info == tables
    except SupportsetError:
        same = False
    if not same:
        raise SupportsetError(
            f"{settings.root}: on {here} this is not the store of the machine that started the run; "
            "--store must be a folder that all machines share, or a URL"
        )


def _interrupt_once(inbox: SimpleQueue[Answer]) -> None:
    """Have Ctrl-C and SIGTERM end the work after complete clips are sealed; a second one changes nothing."""
    interrupted = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            inbox.put(None)  # wakes whoever waits for a chunk; SimpleQueue allows it here
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # the workers of Ray block them


def _read(link: Connection, inbox: SimpleQueue[Answer], seal_when_orphaned: bool) -> None:
    """Receive answers until the other side is gone."""
    while True:
        try:
            inbox.put(link.recv())
        except (EOFError, OSError):
            break
    if not seal_when_orphaned:
        os._exit(1)
    os.kill(os.getpid(), signal.SIGINT)


def _write(link: Connection, outbox: SimpleQueue[Message | None]) -> None:
    """Send messages in a separate thread: an interrupt never cuts one in two."""
    while (message := outbox.get()) is not None:
        with suppress(BrokenPipeError, ConnectionResetError):
            link.send(message)


if __name__ == "__main__":
    # Under its own name, so that the messages are the same classes on both sides of the pipe.
    from supportset.extract.processes import worker_process as worker_process

    worker_process.main(int(sys.argv[1]))
