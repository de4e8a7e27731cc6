"""Folders of the local file system.

A file is written under a temporary name, flushed to disk and renamed, and the folder is flushed. So a name is always
either missing or complete.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np

from supportset.store.files.folder import TEMPORARY, Folder, MappedFile, Parts, telling
from supportset.store.files.mapping import LocalMapping
from supportset.store.files.memory import empty_aligned

PIECE = 1 << 20  # bytes read at a time: still in the processor's cache when they are hashed


class LocalFolder:
    """A folder of the local file system.

    Parameters
    ----------
    path : str or Path
        Path of the folder, which is made by the first :meth:`put`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> Folder:
        """Return a subfolder."""
        return LocalFolder(self.path / name)

    def names(self) -> list[str]:
        """List the names in the folder, sorted; empty if it is missing or a file."""
        with telling("list the folder", self.path):
            try:
                return sorted(os.listdir(self.path))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def stamps(self) -> dict[str, str]:
        """Return size and modification time of each file directly in the folder, by name."""
        stamps = {}
        with telling("list the folder", self.path):
            try:
                with os.scandir(self.path) as entries:
                    for entry in entries:
                        if not entry.is_dir(follow_symlinks=False):
                            with suppress(FileNotFoundError):  # removed since, or a broken link
                                found = entry.stat()
                                stamps[entry.name] = f"{found.st_size} {found.st_mtime_ns}"
            except FileNotFoundError:
                pass
        return stamps

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, None if it is missing."""
        path = self.path / name
        with telling("look at the file", path):
            try:
                return os.stat(path).st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def glob(self, pattern: str) -> list[str]:
        """List the names of files that match a pattern, sorted."""
        found = [self.path]
        for part in pattern.split("/"):  # pathlib's glob takes a folder that cannot be listed for an empty one
            with telling("list the folder", self.path):
                found = [path for base in found for path in _matching(base, part)]
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def changed(self, name: str) -> float | None:
        """Return the time of the last change of a file or tree, in seconds since 1970; None if it is missing."""
        times = []
        for file in (self.path / name, *_below(self.path / name)):
            with telling("look at the file", file):
                try:
                    stat = os.lstat(file)
                except FileNotFoundError:
                    continue
            # The second is that of a rename, and of a copy that keeps the times of its original.
            times.append(max(stat.st_mtime, stat.st_ctime))
        return max(times, default=None)

    def files(self, name: str) -> dict[str, int]:
        """Return the sizes in bytes of the files of a tree, or of one file, by name."""
        base = str(self.path)  # strings: verify lists every shard, and Path objects take five times as long
        path = f"{base}/{name}"
        with telling("look at the files", path):
            below = (f"{folder}/{file}" for folder, _, names in os.walk(path) for file in names)
            found = sorted(file for file in (path, *below) if os.path.isfile(file))
            return {file[len(base) + 1 :]: os.lstat(file).st_size for file in found}

    def read(self, name: str) -> bytes | None:
        """Read a file; None if it is missing."""
        with telling("read the file", self.path / name):
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Read files in the order of the names; None for a missing one."""
        return map(self.read, names)

    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """Read a file in pieces of 1 MiB, through one buffer."""
        buffer = empty_aligned((PIECE,), np.uint8).data
        with telling("read the file", self.path / name), open(self.path / name, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]

    def map(self, name: str) -> MappedFile:
        """Map a file into memory."""
        path = self.path / name
        with telling("map the file", path):
            return LocalMapping(path)

    def put(self, files: Mapping[str, Parts], *, replace: bool = True) -> bool:
        """Write files durably, all or none.

        Parameters
        ----------
        files : mapping
            Content by name. All names share their first component: either one file (``{"a.parquet": ...}``)
            or one tree (``{"a.zarr/zarr.json": ..., "a.zarr/values/c.0.0": ...}``).
        replace : bool, default True
            Whether a file of that name may be replaced (a tree never is).

        Returns
        -------
        bool
            False if the name is taken and ``replace`` is false: then nothing is written.

        Raises
        ------
        SupportsetError
            The file system refuses. Nothing is left behind, if it allows the clean-up.
        """
        roots = {PurePosixPath(name).parts[0] for name in files}
        if len(roots) != 1:
            raise ValueError(f"files of one put share their first component, not {sorted(roots)}")
        root = roots.pop()
        final = self.path / root
        temporary = self.path / f"{TEMPORARY}{secrets.token_hex(4)}-{root}"
        with telling("write", final, "complete files are kept"):
            try:
                _make_folder(self.path)
                for name, parts in files.items():
                    relative = PurePosixPath(name).parts[1:]
                    _write_file(temporary.joinpath(*relative), parts)
                _sync_tree(temporary)
                if replace or temporary.is_dir():
                    os.rename(temporary, final)
                elif not _rename_new(temporary, final):
                    return False
                sync_folder(self.path)
            finally:
                # Does nothing after a success. A killed process leaves its temporary files: no reader sees them,
                # and `store compact` removes them.
                _discard(temporary)
        return True

    def remove(self, name: str) -> None:
        """Remove a file or a tree, if it exists."""
        path = self.path / name
        with telling("remove", path), suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                os.unlink(path)

    def remove_unless(self, name: str, there: str | None) -> bool:
        """Remove a file or a tree unless ``there`` exists: it is renamed before the last check."""
        if there is not None and self.size(there) is not None:
            return False
        hidden = f"{TEMPORARY}{secrets.token_hex(4)}-{name.removeprefix(TEMPORARY)}"
        with telling("remove", self.path / name):
            try:
                os.rename(self.path / name, self.path / hidden)
            except FileNotFoundError:
                return True
            if there is not None and self.size(there) is not None:
                os.rename(self.path / hidden, self.path / name)
                return False
        self.remove(hidden)
        return True

    def discard(self, name: str, first: str) -> None:
        """Rename a tree, then remove ``first``, then the rest."""
        with telling("remove", self.path / name):
            os.rename(self.path / name, self.path / f"{TEMPORARY}{secrets.token_hex(4)}-{name}")
        for hidden in self.names():
            if hidden.startswith(TEMPORARY):
                self.child(hidden).remove(first)
                self.remove(hidden)

    def prune(self, name: str) -> None:
        """Remove an empty subfolder."""
        path = self.path / name
        with telling("remove the folder", path):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _matching(base: Path, part: str) -> list[Path]:
    """The files and folders in a folder with a name, or all of them for ``*``; none if it is missing or a file."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if part == "*":
            return [base / name for name in os.listdir(base)]
        os.lstat(base / part)
        return [base / part]
    return []


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    """Make a folder and its parents, and flush each new name."""
    if not path.is_dir():
        if path.parent != path:
            _make_folder(path.parent)
        with suppress(FileExistsError):  # another writer made it
            os.mkdir(path)
        sync_folder(path.parent)


def _write_file(path: Path, parts: Parts) -> None:
    os.makedirs(path.parent, exist_ok=True)  # in the temporary tree, which is flushed later
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for part in parts:
            rest = memoryview(part)
            while len(rest):
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for folder, _, _ in os.walk(path, topdown=False):
            sync_folder(Path(folder))


def _rename_new(temporary: Path, final: Path) -> bool:
    """Rename a file unless the name is taken; return whether it was renamed."""
    try:
        os.link(temporary, final)  # unlike rename, this never replaces
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if final.exists():  # no hard links: there is no atomic way
            return False
        os.rename(temporary, final)
    return True


def _discard(temporary: Path) -> None:
    with suppress(OSError):
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            os.unlink(temporary)


def _below(path: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(path):  # nothing if it is a file, a link or missing
        yield from (Path(folder, name) for name in (*folders, *names))
