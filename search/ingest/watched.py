"""A folder of videos as it is now: which files are whole, which are still written, and whether a disk is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from supportset.extract.readers.locate import FileTree
from supportset.extract.readers.videos import OTHER_EXTENSIONS
from supportset.store.errors import SupportsetError

SETTLE_SECONDS = 2.0  # a file is whole when its size and time have not changed for so long


@dataclass(frozen=True)
class Seen:
    """A file at one look: its size in bytes, its time in ns, and when (monotonic) it was first seen so."""

    size: int
    mtime_ns: int
    since: float

    @property
    def state(self) -> tuple[int, int]:
        """What changes when the file does."""
        return self.size, self.mtime_ns


class DiskMissing(SupportsetError):  # noqa: N818 - named for what it tells
    """Files are not there, and neither is the disk that they were on."""


class WatchedFolder:
    """The files below a folder that may be videos or images, or say something about them (captions).

    Parameters
    ----------
    root : Path
        The folder; it need not exist.
    settle_seconds : float
        A file is whole when it has not changed for so long.
    ignored : Path, optional
        A folder below ``root`` that is left out, such as the store.

    Attributes
    ----------
    files : dict
        What the last look saw, by path relative to ``root`` with ``/`` between folders.
    """

    def __init__(self, root: Path, settle_seconds: float = SETTLE_SECONDS, ignored: Path | None = None) -> None:
        self.root, self.files = root, dict[str, Seen]()
        self._settle = settle_seconds
        self._ignored = _relative(ignored, root)
        self._disks: dict[str, int] = {}

    def covers(self, path: str) -> bool:
        """Whether a changed file or folder may matter: it is below the folder, not hidden and not left out."""
        relative = _relative(Path(path), self.root)
        return relative is not None and not _is_hidden(relative) and not self._is_ignored(relative)

    def look(self) -> None:
        """Look at all files again.

        Raises
        ------
        DiskMissing
            The folder is not there or cannot be listed, or files are lost together with the disk that they were on.
            What was seen before stays.
        SupportsetError
            The folder is a file.
        """
        if not self.root.is_dir():
            if self.root.exists():
                raise SupportsetError(f"{self.root}: is not a folder: name the folder of the videos")
            raise DiskMissing(f"{self.root}: no such folder now: it is looked for, and nothing is dropped meanwhile")
        try:
            listed = FileTree(self.root, "--videos").files
        except SupportsetError as error:
            raise DiskMissing(str(error)) from error
        found, now = dict[str, Seen](), time.monotonic()
        for path in listed:
            if self._matters(path) and (seen := self._see(path, now)) is not None:
                found[path] = seen
        self._require_disks(path for path in self.files if path not in found)
        self.files = found
        self._disks = {folder: _disk(self.root / folder) for folder in {_folder(path) for path in found}}
        self._disks[""] = _disk(self.root)

    def look_again(self, paths: Iterable[str]) -> bool:
        """Look at a few files only; return False where one is not there any more."""
        there, now = True, time.monotonic()
        for path in paths:
            seen = self._see(path, now)
            if seen is None:
                there = False
            else:
                self.files[path] = seen
        return there

    def whole_in(self, path: str) -> float:
        """Seconds until a file counts as whole if it does not change; 0 if it is.

        A file that was last written long ago is whole at once, as all files are when the server starts.
        """
        seen = self.files[path]
        age = time.time() - seen.mtime_ns / 1e9
        if age >= self._settle:  # a time in the future says nothing
            return 0.0
        return max(0.0, self._settle - (time.monotonic() - seen.since))

    def _see(self, path: str, now: float) -> Seen | None:
        try:
            found = os.stat(self.root / path)
        except OSError:  # removed meanwhile, or a link that leads nowhere
            return None
        before = self.files.get(path)
        same = before is not None and before.state == (found.st_size, found.st_mtime_ns)
        return before if same else Seen(found.st_size, found.st_mtime_ns, now)

    def _matters(self, path: str) -> bool:
        place = PurePosixPath(path)
        if place.suffix.lower() in OTHER_EXTENSIONS and place.stem.lower() != "captions":
            return False
        return not self._is_ignored(path)

    def _is_ignored(self, path: str) -> bool:
        return self._ignored is not None and (path == self._ignored or path.startswith(f"{self._ignored}/"))

    def _require_disks(self, lost: Iterable[str]) -> None:
        """Refuse a loss of files whose disk is lost, too: the nearest folder that is left is on another one."""
        away: dict[str, bool] = {}
        for path in lost:
            folder = _folder(path)
            if folder not in away:
                away[folder] = self._disks.get(folder) != _disk(self._nearest(folder))
            if away[folder]:
                raise DiskMissing(
                    f"{self.root}: {path!r} and other files are lost, and so is the disk that they were on: "
                    "it is waited for, and nothing is dropped meanwhile"
                )

    def _nearest(self, folder: str) -> Path:
        place = self.root / folder
        while place != self.root and not place.is_dir():
            place = place.parent
        return place


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _disk(folder: Path) -> int:
    """Number of the file system that a folder is on; -1 where it does not answer."""
    try:
        return os.stat(folder).st_dev
    except OSError:
        return -1


def _relative(path: Path | None, root: Path) -> str | None:
    if path is None:
        return None
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return path.relative_to(root).as_posix() if path != root and path.is_relative_to(root) else None


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
