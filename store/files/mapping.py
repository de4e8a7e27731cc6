"""Local files as memory, with what the kernel tells and takes about its cache of them."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# The kernel cuts one wish short at the device's readahead window, which is rarely below this.
_WISH = 128 * 1024


class LocalMapping:
    """A local file mapped into memory: the implementation of :class:`store.files.MappedFile`.

    Views of the content keep the memory; this object keeps the open file, for the two questions about the cache.

    Parameters
    ----------
    path : of a file

    Raises
    ------
    OSError
        The file cannot be opened or mapped.
    """

    complete = True

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor, self.content = _map(path)
        except OSError as error:
            if error.errno != errno.EMFILE or not _raise_limit_of_open_files():
                raise
            self._descriptor, self.content = _map(path)
        weakref.finalize(self, os.close, self._descriptor).atexit = False

    def is_cached(self, offset: int) -> bool:
        """Whether the page at an offset is in memory; True where the system cannot tell."""
        if not hasattr(os, "RWF_NOWAIT"):
            return True
        try:
            os.preadv(self._descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a file system that does not know the flag
            return True
        return True

    def ask(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Have the kernel read ranges of bytes ahead, in the background; nothing where it does not offer that."""
        if not hasattr(os, "posix_fadvise"):
            return
        for start, stop in ranges:
            for offset in range(start, stop, _WISH):
                with suppress(OSError):  # a hint: some file systems take none
                    os.posix_fadvise(self._descriptor, offset, min(_WISH, stop - offset), os.POSIX_FADV_WILLNEED)

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Nothing: the kernel fetches what is touched."""


def _map(path: Path) -> tuple[int, memoryview]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not os.fstat(descriptor).st_size:  # nothing, and no system maps that
            return descriptor, memoryview(b"")
        if sys.version_info >= (3, 13):  # else Python keeps the file open once more
            return descriptor, memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ, trackfd=False))
        return descriptor, memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):
        os.close(descriptor)
        raise


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
