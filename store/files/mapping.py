"""Local files mapped into memory, with hints to the kernel's page cache."""

from __future__ import annotations

import errno
import math
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from supportset.store.files.address_range import AddressRange
from supportset.store.files.folder import telling

T = TypeVar("T")

# The kernel truncates a request at the device's read-ahead window, which is rarely smaller.
_REQUEST = 128 * 1024


class LocalMapping:
    """A local file mapped into memory: the implementation of :class:`supportset.store.files.MappedFile`.

    Views of the content keep the memory; this object keeps the open file, for requests to the page cache.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    size : int
        Bytes of the file when it was opened.

    Raises
    ------
    OSError
        The file cannot be opened.
    """

    complete = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor, self.size = with_enough_open_files(lambda: _open(path))
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._close.atexit = False
        self._content: memoryview | None = None
        self._placed: tuple[AddressRange, int] | None = None  # and the place of the file's first byte

    @property
    def content(self) -> memoryview:
        """Content of the file, mapped on first use.

        Raises
        ------
        SupportsetError
            The file cannot be mapped.
        """
        if self._content is None:
            with telling("map the file", self._path):
                _, mapped = with_enough_open_files(lambda: (self._descriptor, self._map()))
                self._content = memoryview(mapped)
        return self._content

    def place(self, addresses: AddressRange, offset: int, at: int, size: int) -> None:
        """Map a part of the file into a range of addresses, in place of ``content``, and close it.

        Parameters
        ----------
        addresses : AddressRange
            Target.
        offset : int
        at : int
        size : int
            As for :meth:`AddressRange.map_file`. From now on, :meth:`ask` takes ranges of this part only.

        Raises
        ------
        OSError
            The file cannot be mapped there, and is unchanged.
        """
        addresses.map_file(self._descriptor, offset, at, size)
        self._expect_random_reads()  # of the open file, which its map keeps
        self._placed = addresses, at - offset
        self._close()

    def expect_random(self) -> None:
        """Turn off read-around, which may be megabytes for each touched page."""
        if self._placed is None and self.size and hasattr(os, "posix_fadvise"):
            mapped = self.content.obj
            self._expect_random_reads()
            if isinstance(mapped, mmap.mmap):
                with suppress(OSError):
                    mapped.madvise(mmap.MADV_RANDOM)

    def ask(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Request read-ahead of ranges of bytes, if the system has it."""
        if self._placed is None:
            read_ahead(self._descriptor, ranges)
        else:
            addresses, first = self._placed
            for offset, size in _requests(ranges):
                addresses.ask(first + offset, size)

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Do nothing: the kernel reads what is touched."""

    def _map(self) -> mmap.mmap | bytes:
        return map_descriptor(self._descriptor, self.size) if self.size else b""  # an empty file cannot be mapped

    def _expect_random_reads(self) -> None:
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # a hint, which some file systems refuse
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def read_ahead(descriptor: int, ranges: Sequence[tuple[int, int]]) -> None:
    """Request read-ahead of ranges of bytes of a file, (start, stop) each, if the system has it."""
    if not hasattr(os, "posix_fadvise"):
        return
    for offset, size in _requests(ranges):
        with suppress(OSError):  # a hint, which some file systems refuse
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def _requests(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Divide ranges of bytes into requests that the kernel does not truncate: offset and size of each."""
    for start, stop in ranges:
        for offset in range(start, stop, _REQUEST):
            yield offset, min(_REQUEST, stop - offset)


def with_enough_open_files(opening: Callable[[], tuple[int, T]]) -> tuple[int, T]:
    """Open a file, given back with its descriptor first; raise the limit of open files where that comes near.

    It is raised as far as the system lets us, and once half of it is used: the rest of the program, which knows nothing
    of our many files, must still find room for its own.
    """
    try:
        opened = opening()
    except OSError as error:
        if error.errno != errno.EMFILE or not _raise_limit_of_open_files():
            raise
        opened = opening()
    if 2 * opened[0] > _limit_of_open_files():
        _raise_limit_of_open_files()
    return opened


def map_descriptor(descriptor: int, size: int) -> mmap.mmap:
    """The first bytes of an open file as read-only memory."""
    if sys.version_info >= (3, 13):  # else Python keeps the file open once more
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)


def _open(path: Path) -> tuple[int, int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return descriptor, os.fstat(descriptor).st_size
    except OSError:
        os.close(descriptor)
        raise


def _limit_of_open_files() -> float:
    try:
        import resource
    except ImportError:  # not on every system
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def _raise_limit_of_open_files() -> bool:
    """Raise the limit to what the system lets every process have; False where there is no more to have."""
    try:
        import resource
    except ImportError:  # not on every system
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    with suppress(OSError, ValueError):  # macOS states more than it grants
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return True
    return False
