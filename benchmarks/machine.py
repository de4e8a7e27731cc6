"""What a figure was measured on: the machine and the versions, without its name."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from supportset._process import cores

LIBRARIES = ("numpy", "zarr", "h5py", "pyarrow", "xxhash", "torch")


def describe_machine(folder: Path) -> dict[str, Any]:
    """The machine, as JSON.

    Parameters
    ----------
    folder : Path
        Where the benchmark keeps its files; its file system is recorded.

    Returns
    -------
    dict
        ``cpu``, ``cores`` that this process may use, ``ram_gb``, ``kernel``, ``libc``, ``file_system``, ``python``,
        ``libraries``, and ``load``: how many processes wanted a core in the minute before
    """
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "file_system": _file_system(folder),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "load": round(os.getloadavg()[0], 2),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _field(path: str, name: str) -> str | None:
    """The first line of a file of ``name : value`` that has this name."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)


def _file_system(folder: Path) -> str | None:
    """Kind of the file system that a folder is on."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    at = folder.resolve()
    # The deepest mount point above the folder; of two on one point, the later covers the earlier.
    above = [(len(Path(point).parts), kind) for _, point, kind, *_ in mounts if at.is_relative_to(point)]
    return max(above, key=lambda mount: mount[0])[1] if above else None
