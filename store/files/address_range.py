"""One range of addresses into which many files are mapped, so that they are one array.

Python's ``mmap`` cannot map to a chosen address, so this module calls the C library, on Linux and macOS. If that fails,
each file is mapped separately by :mod:`supportset.store.files.mapping`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from contextlib import suppress
from functools import lru_cache
from typing import Any

_PROT_NONE, _MAP_FIXED = 0, 0x10  # Python's mmap does not name them
_FAILED = ctypes.c_void_p(-1).value


class AddressRange:
    """Reserved addresses. They have no memory, and must not be touched before a file is mapped there.

    The range is released with the last view of it. It survives a fork; several threads may map at the same time.

    Parameters
    ----------
    size : int
        Bytes.

    Attributes
    ----------
    size : int
        Bytes, whole pages.

    Raises
    ------
    OSError
        The system refuses.

    Examples
    --------
    >>> addresses = AddressRange(2 * mmap.PAGESIZE)
    >>> addresses.map_file(descriptor, 0, mmap.PAGESIZE, mmap.PAGESIZE)  # doctest: +SKIP
    >>> page = np.asarray(addresses)[mmap.PAGESIZE :]                   # doctest: +SKIP
    """

    def __init__(self, size: int) -> None:
        libc = _libc()
        if libc is None or size <= 0 or _is_rationed():
            raise OSError("files cannot be mapped to chosen addresses here")
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._start = _mapped(libc, None, self.size, _PROT_NONE, flags, -1, 0)
        self._release = weakref.finalize(self, libc.munmap, self._start, self.size)
        self._release.atexit = False

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The range as read-only bytes, for ``np.asarray``: the array keeps it alive."""
        return {"version": 3, "shape": (self.size,), "typestr": "|u1", "data": (self._start, True)}

    def map_file(self, descriptor: int, offset: int, at: int, size: int) -> None:
        """Map a part of an open file, read-only and for random access; the file may be closed afterwards.

        Parameters
        ----------
        descriptor : int
            Of the file.
        offset : int
            In the file, a multiple of the page size.
        at : int
            Where in the range, a multiple of the page size.
        size : int
            Bytes. What is behind the last page of the file must not be touched.

        Raises
        ------
        OSError
            The file cannot be mapped. Nothing may be mapped in this range afterwards.
        """
        libc = _libc()
        if libc is None or offset < 0 or at < 0 or size <= 0 or at + size > self.size or (at | offset) % mmap.PAGESIZE:
            raise OSError("outside of the reserved addresses")
        start = self._start + at
        try:
            _mapped(libc, start, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, offset)
        except OSError:
            # Some systems unmap the addresses before they refuse: other memory may be there now, so never unmap it.
            self._release.detach()
            raise
        libc.madvise(start, size, mmap.MADV_RANDOM)  # a hint

    def ask(self, at: int, size: int) -> None:
        """Request read-ahead of bytes of a mapped file: a hint to the kernel."""
        if (libc := _libc()) is not None:
            first = at - at % mmap.PAGESIZE
            libc.madvise(self._start + first, at + size - first, mmap.MADV_WILLNEED)


def _mapped(
    libc: ctypes.CDLL, start: int | None, size: int, protection: int, flags: int, descriptor: int, offset: int
) -> int:
    """Call ``mmap`` and return the address, which is ``start`` if given."""
    found = libc.mmap(start, size, protection, flags, descriptor, offset)
    if found is None or found == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    if start is not None and found != start:
        libc.munmap(found, size)
        raise OSError("the system ignores the chosen address")
    return int(found)


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL | None:
    """The C library, if its flags are known: 64-bit Linux and macOS."""
    if sys.platform not in ("linux", "darwin") or sys.maxsize < 2**32:
        return None
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        address, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        libc.mmap.restype = address
        libc.mmap.argtypes = [address, size, number, number, number, ctypes.c_int64]
        libc.munmap.argtypes = [address, size]
        libc.madvise.argtypes = [address, size, number]
        return libc
    return None


def _is_rationed() -> bool:
    """Whether addresses are limited (``ulimit -v``): then none are reserved."""
    try:
        import resource
    except ImportError:  # not on every system
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
