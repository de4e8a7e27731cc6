"""Cache of remote files: a sparse local file for each, filled block by block on request, and mapped.

A cache file has the size of the remote file, then an 8-byte checksum for each block, 0 for a missing one. Each process
compares a block with its checksum on first use. So no crash, power cut or other process can leave wrong bytes: at worst
a block is fetched again.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files.folder import telling
from supportset.store.files.mapping import map_descriptor, read_ahead, with_enough_open_files

# The transfer of a block takes about as long as the latency of a request (1 MiB: some 20 ms).
BLOCK = 1 << 20
REQUEST = 8  # blocks a request, at most
AT_ONCE = 8  # concurrent requests
FOLDER_VARIABLE = "SUPPORTSET_CACHE"
SIZE_VARIABLE = "SUPPORTSET_CACHE_GB"
DEFAULT_GB = 20.0
LAYOUT = "blocks-1"  # of the cache files: each layout has its folder

_LOOK_AGAIN = 60.0  # seconds between two checks of the cache's size

Read = Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
Array = np.ndarray[Any, Any]


class CachedFile:
    """A remote file as memory: the implementation of :class:`supportset.store.files.MappedFile` for remote storage.

    Threads and processes may share it and its cache file; it survives a fork.

    Parameters
    ----------
    path : Path
        Path of the cache file, made if missing.
    size : int
        Bytes of the remote file.
    read : callable
        Returns the bytes of ranges of the remote file.

    Raises
    ------
    OSError
        The cache file cannot be made.
    """

    def __init__(self, path: Path, size: int, read: Read) -> None:
        blocks = -(-size // BLOCK)
        self._sums_at = -(-size // 8) * 8
        self._path, self._size, self._read = path, size, read
        self._descriptor, memory = with_enough_open_files(lambda: _map(path, self._sums_at + 8 * blocks))
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        self.content = memoryview(memory)[:size]
        self.complete = not blocks
        self._sums: Array = np.frombuffer(memory, "<u8", blocks, self._sums_at)
        self._there = np.zeros(blocks, bool)  # as this process knows
        self._coming: dict[int, Future[None]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def expect_random(self) -> None:
        """Do nothing: only requested blocks are read."""

    def is_cached(self, offset: int) -> bool:
        """Tell whether a byte is in the cache."""
        block = offset // BLOCK
        return bool(self._there[block] or self._sums[block])

    def ask(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Begin to fetch ranges of bytes, in the background. Errors are raised by :meth:`fetch`."""
        if not self.complete and (blocks := self._claim(self._missing(ranges))[0]):
            future = self._coming[blocks[0]]
            _background(os.getpid()).submit(self._get, blocks, future)
        read_ahead(self._descriptor, ranges)

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch ranges of bytes, and return when they are in the cache.

        Raises
        ------
        SupportsetError
            The remote file cannot be read, or the cache cannot be written.
        """
        while not self.complete and len(blocks := self._missing(ranges)):
            mine, of_others = self._claim(blocks)
            if mine and (error := self._get(mine, self._coming[mine[0]])):
                raise error
            wait(of_others)  # a failed one is tried again here

    def _missing(self, ranges: Sequence[tuple[int, int]]) -> Array:
        """Numbers of the missing blocks of ranges, sorted."""
        needed = np.zeros(len(self._there) + 1, np.int64)
        bounds = np.asarray(ranges, np.int64).reshape(-1, 2)
        bounds = np.clip(bounds[bounds[:, 0] < bounds[:, 1]], 0, self._size)
        np.add.at(needed, bounds[:, 0] // BLOCK, 1)
        np.add.at(needed, -(-bounds[:, 1] // BLOCK), -1)
        return np.flatnonzero((np.cumsum(needed[:-1]) > 0) & ~self._there)

    def _claim(self, blocks: Array) -> tuple[list[int], set[Future[None]]]:
        """Claim the blocks that no thread is fetching; also return the futures of the others."""
        if self._process != os.getpid():  # a fork does not copy the threads, one of which may hold the lock
            self._lock, self._coming, self._process = threading.Lock(), {}, os.getpid()
        with self._lock:
            mine = [block for block in blocks.tolist() if block not in self._coming and not self._there[block]]
            of_others = {self._coming[block] for block in blocks.tolist() if block in self._coming}
            future: Future[None] = Future()
            self._coming |= dict.fromkeys(mine, future)
        return mine, of_others

    def _get(self, blocks: list[int], future: Future[None]) -> SupportsetError | None:
        """Fetch claimed blocks; return the error if one fails."""
        try:
            absent = [block for block in blocks if not self._is_intact(block)]
            requests = list(_runs(absent))
            for at in range(0, len(requests), AT_ONCE):
                group = requests[at : at + AT_ONCE]
                spans = [(first * BLOCK, min(stop * BLOCK, self._size)) for first, stop in group]
                for (first, stop), content in zip(group, self._read(spans), strict=True):
                    self._keep(first, stop, content)
            self.complete = bool(self._there.all())
        except SupportsetError as error:
            return error
        finally:
            with self._lock:
                for block in blocks:
                    self._coming.pop(block, None)
            future.set_result(None)
        return None

    def _is_intact(self, block: int) -> bool:
        stated = int(self._sums[block])
        if stated and _sum(self.content[block * BLOCK : (block + 1) * BLOCK]) == stated:
            self._there[block] = True
        return bool(self._there[block])

    def _keep(self, first: int, stop: int, content: bytes) -> None:
        view = memoryview(content)
        sums = [_sum(view[i * BLOCK : (i + 1) * BLOCK]) for i in range(stop - first)]
        with telling("write the cache of remote files", self._path):
            _write(self._descriptor, view, first * BLOCK)
            _write(self._descriptor, memoryview(np.array(sums, "<u8").tobytes()), self._sums_at + 8 * first)
        self._there[first:stop] = True


class BlockCache:
    """Folder of cache files with a limited size: the least recently opened ones are removed.

    Parameters
    ----------
    folder : Path
        Folder, made on first use.
    budget : int
        Bytes on disk. A file that a process has open takes space until it is closed.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder = folder / LAYOUT
        self.budget = budget
        self._looked = -_LOOK_AGAIN

    def open(self, url: str, version: str, size: int, read: Read) -> CachedFile:
        """Open the cache file of a remote file.

        Parameters
        ----------
        url : str
            URL of the remote file.
        version : str
            Its ETag or time; each version has its cache file.
        size : int
            Bytes of the remote file.
        read : callable
            Returns the bytes of ranges of it.

        Raises
        ------
        SupportsetError
            The cache's folder cannot be written.
        """
        key = xxhash.xxh3_128_hexdigest("\n".join([url, version, str(size)]).encode("utf-8", "surrogatepass"))
        path = self.folder / key
        with telling(f"make the cache of remote files ({FOLDER_VARIABLE} names another folder)", path):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if time.monotonic() - self._looked > _LOOK_AGAIN:
                self.make_room()
            file = CachedFile(path, size, read)
            os.utime(path)
        return file

    def make_room(self) -> None:
        """Remove the least recently opened cache files, until the others fit."""
        self._looked = time.monotonic()
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process removed it
                    stat = entry.stat(follow_symlinks=False)
                    found.append((stat.st_mtime, stat.st_blocks * 512, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.budget:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def default_cache() -> BlockCache:
    """Return the cache in the folder ``SUPPORTSET_CACHE``, of the size ``SUPPORTSET_CACHE_GB``.

    The defaults are ``supportset`` in ``XDG_CACHE_HOME`` or ``~/.cache``, and 20 GB.

    Raises
    ------
    UsageError
        The size is not a number.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "supportset")
    stated = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_GB)
    try:
        budget = int(float(stated) * 1e9)
    except (ValueError, OverflowError):
        budget = -1
    if budget < 0:
        raise UsageError(f"{SIZE_VARIABLE}={stated}: not a size in GB: use a number such as {DEFAULT_GB:g}")
    return _cache(Path(folder), budget)


_cache = lru_cache(BlockCache)  # one object for each folder: it remembers when it checked its size


@lru_cache(maxsize=1)
def _background(process: int) -> ThreadPoolExecutor:
    """Threads that fetch ahead; separate for each process, as a fork does not copy threads."""
    return ThreadPoolExecutor(2, thread_name_prefix="supportset-blocks")


def _map(path: Path, size: int) -> tuple[int, Any]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:  # new or damaged: the checksums show which blocks are valid
            os.ftruncate(descriptor, size)
        return descriptor, map_descriptor(descriptor, size) if size else b""
    except (OSError, ValueError):
        os.close(descriptor)
        raise


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Join adjacent blocks to requests: first block, and the one after the last."""
    first = 0
    for i in range(1, len(blocks) + 1):
        if i == len(blocks) or blocks[i] != blocks[i - 1] + 1 or i - first == REQUEST:
            yield blocks[first], blocks[i - 1] + 1
            first = i


def _sum(block: memoryview) -> int:
    return xxhash.xxh3_64_intdigest(block) or 1  # 0 says that a block is not there


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    while len(content):
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written
