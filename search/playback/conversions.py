"""Converted videos: made once, kept in a bounded folder, and no more at once than the machine bears."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supportset.search.playback.process import MediaError, MediaProcess
from supportset.store.files import hash_parts

VERSION = 1  # of what a conversion writes: raise it when that changes
_FORGOTTEN_SECONDS = 86_400  # after which an unfinished file belongs to no running server
_SPARE_BYTES = 256 * 2**20  # of the disk, which conversions leave free


@dataclass(frozen=True)
class Bounds:
    """Of conversions: how many at once and waiting, seconds of one, bytes of memory and of all that is kept."""

    running: int
    waiting: int
    seconds: float
    memory: int
    kept: int


@dataclass
class _Running:
    process: MediaProcess
    future: Future[Path]
    waiters: int = 1


class TooMany(MediaError):  # noqa: N818 - not an error by itself
    """Too many conversions wait."""


class Conversions:
    """A folder of converted files.

    Parameters
    ----------
    folder : Path
        Made where absent. Several servers may share it.
    bounds : Bounds
    """

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self._folder, self._bounds = folder, bounds
        self._threads = ThreadPoolExecutor(bounds.running, thread_name_prefix="convert")
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}

    def kept(self, source: Path, job: str, **options: Any) -> Path | None:
        """The converted file, if it is there."""
        target = self._folder / self._name(source, job, options)
        try:
            os.utime(target)  # the oldest is removed first
        except OSError:
            return None
        return target

    def begin(self, source: Path, job: str, **options: Any) -> tuple[Future[Path], Callable[[], None]]:
        """Convert a file, or join its conversion.

        Returns
        -------
        future : Future of Path
            Fails with `MediaError`.
        leave : callable
            To be called by who no longer waits: a conversion that nobody waits for is stopped.

        Raises
        ------
        TooMany
            Too many wait already.
        MediaError
            The source is not there any more.
        """
        name = self._name(source, job, options)
        with self._lock:
            running = self._running.get(name)
            if running is None:
                if len(self._running) >= self._bounds.running + self._bounds.waiting:
                    raise TooMany("too many videos are being converted: ask again in a few seconds", "busy")
                process = MediaProcess(self._bounds.memory, self._bounds.kept)
                running = _Running(process, Future())
                self._running[name] = running
                self._threads.submit(self._convert, name, running, source, job, options)
            elif running.waiters:
                running.waiters += 1
            else:
                raise TooMany("this conversion is being stopped: ask again", "busy")
        return running.future, lambda: self._leave(running)

    def close(self) -> None:
        """Stop all conversions."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for running in self._running.values():
                running.process.kill()

    def _leave(self, running: _Running) -> None:
        with self._lock:
            running.waiters -= 1
            if running.waiters == 0 and not running.future.done():
                running.process.kill()

    def _convert(self, name: str, running: _Running, source: Path, job: str, options: dict[str, Any]) -> None:
        unfinished = self._folder / f".{os.getpid()}-{name}"
        found: Path | MediaError
        try:
            self._make_room()
            with running.process as process:
                process.ask(job, self._bounds.seconds, source=str(source), target=str(unfinished), **options)
            found = unfinished.replace(self._folder / name)
            self._make_room()
        except MediaError as error:
            found = error
        except OSError as error:
            found = MediaError(f"the folder of converted videos cannot be written: {error.strerror}", "full")
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        with self._lock:
            del self._running[name]
        if isinstance(found, Path):
            running.future.set_result(found)
        else:
            running.future.set_exception(found)

    def _make_room(self) -> None:
        """Remove the oldest files, until the folder keeps its bound and the disk has some space."""
        self._folder.mkdir(parents=True, exist_ok=True)
        files: list[tuple[float, int, Path]] = []
        for entry in os.scandir(self._folder):
            with suppress(OSError):
                found = entry.stat()
                if not entry.name.startswith("."):
                    files.append((found.st_mtime, found.st_size, Path(entry.path)))
                elif time.time() - found.st_mtime > _FORGOTTEN_SECONDS:
                    os.unlink(entry.path)
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            room = os.statvfs(self._folder)
            if total <= self._bounds.kept and room.f_bavail * room.f_frsize >= _SPARE_BYTES:
                break
            with suppress(OSError):
                path.unlink()
                total -= size

    def _name(self, source: Path, job: str, options: dict[str, Any]) -> str:
        try:
            found = source.stat()
        except OSError:
            raise MediaError("the file is not there any more", "missing") from None
        parts = [str(VERSION), os.fsdecode(source), str(found.st_size), str(found.st_mtime_ns), job, repr(options)]
        key = hash_parts([part.encode("utf-8", "surrogateescape") + b"\0" for part in parts]).rpartition(":")[2]
        return f"{key}.{'jpg' if job == 'picture' else 'mp4'}"
