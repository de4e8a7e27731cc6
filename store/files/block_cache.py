"""Remote files as local memory: a sparse local file each, filled block by block as ranges are asked for.

A cache file is as long as the remote one, and has behind that an 8-byte checksum for each block, 0 for one that is not
there. A block counts as there, for a process that meets it for the first time, if its bytes fit the checksum. So it
does not matter in which order a crash or a power cut kept what was written, nor which process wrote it: at worst a
block is read once more.
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

# A block takes about as long to come as its request takes to be answered (1 MiB: some 20 ms), so neither is wasted.
BLOCK = 1 << 20
REQUEST = 8  # blocks of one request at most
AT_ONCE = 8  # requests under way at a time
FOLDER_VARIABLE = "SUPPORTSET_CACHE"
SIZE_VARIABLE = "SUPPORTSET_CACHE_GB"
DEFAULT_GB = 20.0
LAYOUT = "blocks-1"  # of the cache files: another one gets another folder

_LOOK_AGAIN = 60.0  # seconds between two looks at how large the cache has become

Read = Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
Array = np.ndarray[Any, Any]


class CachedFile:
    """A remote file as memory: the implementation of :class:`supportset.store.files.MappedFile` for what is not here.

    Threads and processes may use it, and the file it lies in, at the same time; it lives through a fork.

    Parameters
    ----------
    path : of the cache file, made where absent
    size : of the remote file in bytes
    read : gives the bytes of ranges of the remote file

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
        self._there = np.zeros(blocks, bool)  # as far as this process knows
        self._coming: dict[int, Future[None]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def expect_random(self) -> None:
        """Nothing: only what is asked for is read."""

    def is_cached(self, offset: int) -> bool:
        """Whether the byte is on this machine."""
        block = offset // BLOCK
        return bool(self._there[block] or self._sums[block])

    def ask(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Begin to get the blocks of ranges of bytes, in the background. What goes wrong there, :meth:`fetch` tells."""
        if not self.complete and (blocks := self._claim(self._missing(ranges))[0]):
            future = self._coming[blocks[0]]
            _background(os.getpid()).submit(self._get, blocks, future)
        read_ahead(self._descriptor, ranges)

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Return when the bytes of ranges are here.

        Raises
        ------
        SupportsetError
            The remote storage or the local disk refuses.
        """
        while not self.complete and len(blocks := self._missing(ranges)):
            mine, of_others = self._claim(blocks)
            if mine and (error := self._get(mine, self._coming[mine[0]])):
                raise error
            wait(of_others)  # where that failed, we try ourselves

    def _missing(self, ranges: Sequence[tuple[int, int]]) -> Array:
        """Numbers of the blocks of ranges that are not here, sorted."""
        needed = np.zeros(len(self._there) + 1, np.int64)
        bounds = np.asarray(ranges, np.int64).reshape(-1, 2)
        bounds = np.clip(bounds[bounds[:, 0] < bounds[:, 1]], 0, self._size)
        np.add.at(needed, bounds[:, 0] // BLOCK, 1)
        np.add.at(needed, -(-bounds[:, 1] // BLOCK), -1)
        return np.flatnonzero((np.cumsum(needed[:-1]) > 0) & ~self._there)

    def _claim(self, blocks: Array) -> tuple[list[int], set[Future[None]]]:
        """Blocks that nobody is getting, from now on this caller's; and what to wait for to have the others."""
        if self._process != os.getpid():  # a fork left the threads behind that were at work, maybe holding the lock
            self._lock, self._coming, self._process = threading.Lock(), {}, os.getpid()
        with self._lock:
            mine = [block for block in blocks.tolist() if block not in self._coming and not self._there[block]]
            of_others = {self._coming[block] for block in blocks.tolist() if block in self._coming}
            future: Future[None] = Future()
            self._coming |= dict.fromkeys(mine, future)
        return mine, of_others

    def _get(self, blocks: list[int], future: Future[None]) -> SupportsetError | None:
        """Have blocks here that this caller claimed; give back what went wrong."""
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
    """A folder of cache files that keeps to a size: those not opened for longest go when another one is opened.

    Parameters
    ----------
    folder : made on first use
    budget : bytes on disk. Files that a process has open keep their room until it closes them
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder = folder / LAYOUT
        self.budget = budget
        self._looked = -_LOOK_AGAIN

    def open(self, url: str, version: str, size: int, read: Read) -> CachedFile:
        """The cache file of a remote file.

        Parameters
        ----------
        url, version : of the remote file; another version (ETag, time) has another cache file
        size : of the remote file in bytes
        read : gives the bytes of ranges of it

        Raises
        ------
        SupportsetError
            The cache's folder cannot be written to.
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
        """Remove the cache files that were not opened for longest, until the others fit."""
        self._looked = time.monotonic()
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process was faster
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
    """The cache that the environment names: ``SUPPORTSET_CACHE``, a folder, and ``SUPPORTSET_CACHE_GB``, its size.

    Without them, ``supportset`` in ``XDG_CACHE_HOME`` or ``~/.cache``, and 20 GB.

    Raises
    ------
    UsageError
        The size is no number.
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
        raise UsageError(f"{SIZE_VARIABLE}={stated}: is no size in GB: use a number such as {DEFAULT_GB:g}")
    return _cache(Path(folder), budget)


_cache = lru_cache(BlockCache)  # one each, as it remembers when it looked at its size


@lru_cache(maxsize=1)
def _background(process: int) -> ThreadPoolExecutor:
    """The threads that get blocks ahead; others in each process, as they do not live through a fork."""
    return ThreadPoolExecutor(2, thread_name_prefix="supportset-blocks")


def _map(path: Path, size: int) -> tuple[int, Any]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:  # new, or damaged: the checksums tell what of it is right
            os.ftruncate(descriptor, size)
        return descriptor, map_descriptor(descriptor, size) if size else b""
    except (OSError, ValueError):
        os.close(descriptor)
        raise


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbours joined to requests: first block and the one after the last."""
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
