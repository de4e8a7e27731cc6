"""How the process keeps its memory: the difference between computing and faulting pages in."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGE = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks for the next batch instead of handing each back to the kernel.

    PyTorch on a CPU allocates every large activation anew. By default glibc maps such blocks and unmaps them when they
    are freed, so that each page is faulted in and zeroed again for each batch: measured here, EfficientNet-Lite0 runs
    four times faster without. Elsewhere than on Linux with glibc nothing is done.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        glibc = ctypes.CDLL("libc.so.6")
        glibc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        glibc.mallopt(_M_TRIM_THRESHOLD, _LARGE)
