"""Memory that this process may still take: what the machine has free, limited by its control groups.

A container, a SLURM job and a systemd service may take far less than the machine has, and are killed when they take
more. Linux only; elsewhere it is the free memory of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

# Limit, use, and which lines of memory.stat count file pages, which go when room is needed: version 2, then version 1.
_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def free_memory(system: Path = Path("/")) -> int:
    """Bytes of RAM that this process may still take.

    Parameters
    ----------
    system : Path
        The folder that contains ``proc`` and ``sys``.
    """
    return max(0, min([psutil.virtual_memory().available, *_rooms(system)]))


def _rooms(system: Path) -> Iterator[int]:
    """Bytes that each control group leaves that the process is in and that has a limit."""
    for group in _groups(system):
        for limit, used, cached in _FILES:
            with suppress(OSError, ValueError):  # no such file in this version, or "max": no limit
                most, taken = (int((group / name).read_text()) for name in (limit, used))
                lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield most - taken + sum(int(value) for name, value in lines if name in cached)


def _groups(system: Path) -> Iterator[Path]:
    """Folders of the process's groups, from its own to the root; in a container some of them are not to be seen."""
    with suppress(OSError, ValueError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers in ("", "memory"):
                own = Path(name.strip("/"))
                for root in ("sys/fs/cgroup", "sys/fs/cgroup/unified", "sys/fs/cgroup/memory"):
                    for group in (own, *own.parents):
                        yield system / root / group
