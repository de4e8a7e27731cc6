"""Making files cold: out of the kernel's page cache, and proof that they are."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and the folders in it, sorted."""
    return sorted(Path(at, name) for at, _, names in os.walk(folder) for name in names)


def evict(files: Iterable[Path]) -> None:
    """Have the kernel forget files. What a process maps, and what is not yet on disk, it keeps: flush before.

    Raises
    ------
    OSError
        A file cannot be opened, or the system has no ``posix_fadvise``.
    """
    if not hasattr(os, "posix_fadvise"):
        raise OSError(errno.ENOSYS, "this system cannot take files out of its cache")
    for file in files:
        with _opened(file) as descriptor:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def share_in_memory(files: Iterable[Path]) -> float:
    """Share of the files' pages that are in memory, from 0 to 1.

    ``mincore`` is asked: reading with ``RWF_NOWAIT`` would have the kernel fetch what it finds missing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    there = pages = 0
    for file in files:
        size = file.stat().st_size
        if not size:
            continue
        count = -(-size // mmap.PAGESIZE)
        told = (ctypes.c_ubyte * count)()
        # A private map may be written to, which ctypes wants before it tells an address; nobody does.
        with _opened(file) as descriptor, mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY) as memory:
            first = ctypes.c_char.from_buffer(memory)
            failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), told)
            del first
        if failed:
            raise OSError(ctypes.get_errno(), f"{file}: mincore failed")
        pages += count
        there += sum(page & 1 for page in bytes(told))
    return there / max(pages, 1)


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
