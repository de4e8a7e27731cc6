"""What a thread has had read from disks, as the kernel counts it."""

from __future__ import annotations

import sys

if sys.platform == "linux":  # alone counts for each thread
    from resource import RUSAGE_THREAD, getrusage


def disk_reads() -> int:
    """Blocks that the calling thread has had read so far, what it asked to be read ahead included.

    A batch after which the number is the same came from memory. Some network file systems are not counted, and on
    systems that keep no count for each thread the number is always 0: for these, only time tells.
    """
    return getrusage(RUSAGE_THREAD).ru_inblock if sys.platform == "linux" else 0
