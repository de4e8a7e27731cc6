"""How a process of ours uses the machine: its cores, its threads, its memory."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGE = 1 << 30  # bytes
_SPINS = 10_000  # some 0.1 ms, so that one operation after another needs no sleep; unless told otherwise 300,000


def prepare_process() -> None:
    """Set what the libraries of this process read when they are loaded: call it before torch is imported.

    Variables that the user has set stay as they are.
    """
    os.environ.update(sleeping_threads())
    if (allowed := cores()) < _affinity():  # torch and OpenBLAS do not know of a container's quota
        os.environ.update(threads_of(allowed))
    keep_freed_memory()


def cores(proc: Path = Path("/proc/self")) -> int:
    """Return how many cores this process may use: those it may run on, and no more than its cgroups' CPU quota.

    A part of a core counts as one. Every choice of a number of processes or threads begins here.

    Parameters
    ----------
    proc : Path
        The kernel's folder of this process.
    """
    return max(1, min([_affinity(), *(math.ceil(quota) for quota in _quotas(proc))]))


def threads_of(share: int) -> dict[str, str]:
    """Return the variables for a process with a share of the cores: so many threads, or fewer where the user says so.

    They count where the libraries are not loaded yet, and so do those of :func:`sleeping_threads`.
    """
    given = {name: os.environ.get(name, "") for name in THREADS}
    return {name: str(min(share, int(told)) if told.isdecimal() else share) for name, told in given.items()}


def sleeping_threads() -> dict[str, str]:
    """Return the variables that have threads of OpenMP sleep where they wait for each other.

    By default they spin for milliseconds. Beside other jobs a thread then burns the time that the thread it waits for
    needs: docs/benchmarks.md, "Extraction beside other jobs".
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", str(_SPINS))}


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks for the next batch instead of returning each to the kernel.

    PyTorch on a CPU allocates every large activation again. By default glibc maps such a block and unmaps it when it is
    freed, so the kernel zeroes and faults in each page for each batch. Without this EfficientNet-Lite0 runs four times
    slower. Nothing happens except on Linux with glibc.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        glibc = ctypes.CDLL("libc.so.6")
        glibc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        glibc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(proc: Path) -> Iterator[float]:
    """Yield the CPU quotas of the process's cgroups and of those around them, in cores (man 7 cgroups)."""
    try:
        mounts, groups = (proc / "mountinfo").read_text(), (proc / "cgroup").read_text()
    except OSError:  # not Linux
        return
    paths = {controller: path for line in groups.splitlines() for controller, path in _controllers(line)}
    for mount in mounts.splitlines():
        before, _, after = mount.partition(" - ")
        (root, point), (kind, *_, options) = before.split()[3:5], after.split()
        controller = "" if kind == "cgroup2" else "cpu"
        if controller not in paths or not (kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(","))):
            continue
        inner = paths[controller].removeprefix(root.rstrip("/")).strip("/")
        group = Path(point) if ".." in inner else Path(point, inner)
        while group.is_relative_to(point):
            yield from _quota(group)
            group = group.parent


def _controllers(line: str) -> Iterator[tuple[str, str]]:
    """Yield controller and path of a line of /proc/PID/cgroup; the controller of version 2 is empty."""
    _, controllers, path = line.split(":", 2)
    for controller in controllers.split(","):
        yield controller, path


def _quota(group: Path) -> Iterator[float]:
    """Yield the quota of one cgroup, if it has one."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # version 2
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # version 1; -1: none
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
