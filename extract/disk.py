"""How much disk the features of a run need, told and limited before it starts.

Run as a program it prints the durations of files: they are opened in a process of their own, since a damaged file may
end it.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from supportset.extract.decode.sampling import Sampling
from supportset.store.errors import UsageError
from supportset.store.files import StorePath

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone
    from supportset.extract.work.selection import Task

MAX_DISK = 100 * 10**9  # bytes, unless the user gives another number
_SMALL = 10**9  # bytes: files are opened only where the features may need more
_SAMPLE = 32  # files that are opened
_SECONDS = 60.0  # to open them
_THUMBNAIL = 5000  # bytes, with its timestamps


@dataclass(frozen=True)
class DiskUse:
    """Bytes of the features of some clips, without the small tables beside them.

    Attributes
    ----------
    clips : int
    steps : float
        Of a clip, in the mean.
    vectors, dim, size : int
        Of a step; numbers of a vector; bytes of a number.
    known : bool
        Whether the steps follow from durations; else each clip is counted with the maximum.
    thumbnails : int
        Most thumbnails of a clip.
    """

    clips: int
    steps: float
    vectors: int
    dim: int
    size: int
    known: bool
    thumbnails: int = 0

    @property
    def bytes(self) -> int:
        """All of them, with the thumbnails."""
        features = self.clips * self.steps * self.vectors * self.dim * self.size
        return math.ceil(features + self.clips * min(self.steps, self.thumbnails) * _THUMBNAIL)

    def __str__(self) -> str:
        return f"{'about' if self.known else 'at most'} {gigabytes(self.bytes)}"

    @property
    def formula(self) -> str:
        """The estimate, and what it follows from."""
        vectors = f" x {self.vectors:,} vectors" if self.vectors > 1 else ""
        steps = f"{self.clips:,} clips x {self.steps:,.4g} steps{vectors}"
        pictures = f", and {self.thumbnails:,} thumbnails a clip at most" if self.thumbnails else ""
        return f"{self} ({steps} x {self.dim:,} numbers x {self.size} bytes{pictures})"


def estimate(
    tasks: Sequence[Task], videos_root: Path, backbone: Backbone, sampling: Sampling, dtype: str, thumbnails: int = 0
) -> DiskUse:
    """Estimate what the features of these clips need, from the durations of some files."""
    sizes = backbone.vectors, backbone.dim, np.dtype(dtype).itemsize
    most = float(sampling.frames or sampling.max_steps)
    whole = [task for task in tasks if task.clip.end_s is None]
    upper = DiskUse(len(tasks), most, *sizes, known=sampling.fps is None, thumbnails=thumbnails)
    if sampling.fps is None or upper.bytes <= _SMALL:
        return upper
    parts = [
        _steps(sampling, task.clip.end_s - (task.clip.start_s or 0.0)) for task in tasks if task.clip.end_s is not None
    ]
    sample = [whole[round(i)] for i in np.linspace(0, len(whole) - 1, min(_SAMPLE, len(whole)))]
    files = [videos_root / task.source.path for task in sample]
    seen: list[float] = [_steps(sampling, seconds) for seconds in durations(files) if seconds is not None]
    if whole and not seen:
        return upper
    steps = (sum(parts) + len(whole) * float(np.mean(seen or [0.0]))) / len(tasks)
    return DiskUse(len(tasks), steps, *sizes, known=True, thumbnails=thumbnails)


def check_disk(use: DiskUse, path: StorePath, most: int | None) -> None:
    """Refuse a run that would need too much.

    Parameters
    ----------
    use : DiskUse
    path : StorePath
        Of the feature set.
    most : int, optional
        The number of bytes that the user allows. Default: ``MAX_DISK``, and what is free there.

    Raises
    ------
    UsageError
        One line with the estimate, the limit and how to need less.
    """
    less = "fewer steps (--fps, --frames, --max-steps) or vectors (#tokens=N behind the backbone) need less"
    limit = MAX_DISK if most is None else most
    if use.bytes > limit:
        raise UsageError(
            f"{path}: the features need {use.formula}, more than --max-disk {gigabytes(limit).replace(' ', '')}: "
            f"raise it, or {less}"
        )
    free = _free(path) if most is None and isinstance(path, Path) else None
    if free is not None and use.bytes > free:
        raise UsageError(
            f"{path}: the features need {use.formula}, but {gigabytes(free)} are free there: use another --store, "
            f"or {less}; --max-disk SIZE starts all the same"
        )


def gigabytes(count: int) -> str:
    """Bytes in words, such as ``1.5 GB``."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1000:,.1f} kB"


def durations(files: Sequence[Path]) -> list[float | None]:
    """Seconds of each file as its header states them; None where it cannot be read. Takes a minute at most."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    command = [sys.executable, "-P", "-m", __name__, *map(str, files)]
    try:
        found = subprocess.run(
            command, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths},
        ).stdout  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        found = expired.stdout or b""
    lines = found.decode(errors="replace").splitlines()[: len(files)]
    read = [float(line) if line.replace(".", "", 1).isdecimal() else None for line in lines]
    return read + [None] * (len(files) - len(read))


def _steps(sampling: Sampling, seconds: float) -> int:
    return min(sampling.max_steps, max(1, math.floor(seconds * (sampling.fps or 1.0) + 0.5)))


def _free(path: Path) -> int | None:
    place = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), None)
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None


def _duration(path: str) -> float | None:
    import av

    if not os.path.isfile(path):  # a pipe may never end
        return None
    try:
        with av.open(
            f"file:{path}", container_options={"protocol_whitelist": "file"}, metadata_errors="ignore"
        ) as file:
            return file.duration / av.time_base if file.duration and file.duration > 0 else None
    except (av.error.FFmpegError, OSError, ValueError):
        return None


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(_duration(name), flush=True)
