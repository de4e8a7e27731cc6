"""Folders of the local file system.

Everything is written under a temporary name, flushed to disk, renamed, and the folder flushed, so that a name is
either absent or complete, whatever happens.
"""

from __future__ import annotations

import errno
import glob
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

PIECE = 1 << 20  # bytes read at a time: they are hashed while they lie in the processor's cache


class LocalFolder:
    """A folder of the local file system.

    Parameters
    ----------
    path : the folder; made on the first :meth:`put`
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> Folder:
        """A folder in this one."""
        return LocalFolder(self.path / name)

    def names(self) -> list[str]:
        """Names in the folder, sorted; empty where it is absent."""
        with telling("list the folder", self.path):
            try:
                return sorted(os.listdir(self.path))
            except FileNotFoundError:
                return []

    def stamps(self) -> dict[str, str]:
        """Size and time of the last change of each file right in the folder, by name."""
        stamps = {}
        with telling("list the folder", self.path):
            try:
                with os.scandir(self.path) as entries:
                    for entry in entries:
                        if not entry.is_dir(follow_symlinks=False):
                            with suppress(FileNotFoundError):  # gone since, or a broken link
                                found = entry.stat()
                                stamps[entry.name] = f"{found.st_size} {found.st_mtime_ns}"
            except FileNotFoundError:
                pass
        return stamps

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, None where it is absent."""
        path = self.path / name
        with telling("look at the file", path):
            try:
                return os.stat(path).st_size
            except FileNotFoundError:
                return None

    def glob(self, pattern: str) -> list[str]:
        """Names of files that fit a pattern, sorted."""
        literal = "/".join(part if part == "*" else glob.escape(part) for part in pattern.split("/"))
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.glob(literal))

    def changed(self, name: str) -> float | None:
        """When a file, or anything in a tree, last changed, in seconds since 1970; None where it is gone."""
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
        """Names and sizes in bytes of the files of a tree, or of the one file."""
        base = str(self.path)  # strings: verify looks at every shard, and paths as objects take five times as long
        path = f"{base}/{name}"
        with telling("look at the files", path):
            below = (f"{folder}/{file}" for folder, _, names in os.walk(path) for file in names)
            found = sorted(file for file in (path, *below) if os.path.isfile(file))
            return {file[len(base) + 1 :]: os.lstat(file).st_size for file in found}

    def read(self, name: str) -> bytes | None:
        """Content of a file, None where it is absent."""
        with telling("read the file", self.path / name):
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Contents of files in the order of the names, None for each that is absent."""
        return map(self.read, names)

    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """Content of a file in pieces of 1 MiB through one buffer."""
        buffer = empty_aligned((PIECE,), np.uint8).data
        with telling("read the file", self.path / name), open(self.path / name, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]

    def map(self, name: str) -> MappedFile:
        """A file as memory. The mapping lives as long as something views its content."""
        path = self.path / name
        with telling("map the file", path):
            return LocalMapping(path)

    def put(self, files: Mapping[str, Parts], *, replace: bool = True) -> bool:
        """Write files durably and all at once.

        Parameters
        ----------
        files : content by name. All names share their first component: either one file (``{"a.parquet": ...}``)
            or one tree (``{"a.zarr/zarr.json": ..., "a.zarr/values/c.0.0": ...}``)
        replace : whether a file of that name may be replaced (a tree never is)

        Returns
        -------
        bool
            False where the name is taken and ``replace`` is false: nothing is written then.

        Raises
        ------
        SupportsetError
            Anything that the file system refuses; nothing is left behind then, as far as it lets us clean up.
        """
        roots = {PurePosixPath(name).parts[0] for name in files}
        if len(roots) != 1:
            raise ValueError(f"one name at a time can appear whole, not {sorted(roots)}")
        root = roots.pop()
        final = self.path / root
        temporary = self.path / f"{TEMPORARY}{secrets.token_hex(4)}-{root}"
        with telling("write", final):
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
                # After a success nothing is there any more. A process that is killed leaves its
                # temporary files: no reader sees them, and `store compact` removes them.
                _discard(temporary)
        return True

    def remove(self, name: str) -> None:
        """Remove a file or a tree; no error where it is absent."""
        path = self.path / name
        with telling("remove", path), suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                os.unlink(path)

    def remove_unless(self, name: str, there: str | None) -> bool:
        """Remove a file or a tree, unless ``there`` is or appears: it changes its name before the last look."""
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
        """Remove a tree: its name changes first, then ``first`` goes, then the rest."""
        with telling("remove", self.path / name):
            os.rename(self.path / name, self.path / f"{TEMPORARY}{secrets.token_hex(4)}-{name}")
        for hidden in self.names():
            if hidden.startswith(TEMPORARY):
                self.child(hidden).remove(first)
                self.remove(hidden)

    def prune(self, name: str) -> None:
        """Remove a folder that is empty."""
        path = self.path / name
        with telling("remove the folder", path):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def sync_folder(path: Path) -> None:
    """Flush a folder's names to disk, so that a rename outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    """Make a folder with its parents, and flush the name of each that is new."""
    if not path.is_dir():
        if path.parent != path:
            _make_folder(path.parent)
        with suppress(FileExistsError):  # another writer was faster
            os.mkdir(path)
        sync_folder(path.parent)


def _write_file(path: Path, parts: Parts) -> None:
    os.makedirs(path.parent, exist_ok=True)  # within the temporary tree, which is flushed as a whole
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
    """Give a file its final name unless the name is taken; say whether it was given."""
    try:
        os.link(temporary, final)  # unlike rename, this never replaces
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if final.exists():  # a file system without hard links: the best that is left
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
    for folder, folders, names in os.walk(path):  # nothing where it is a file, a link, or gone
        yield from (Path(folder, name) for name in (*folders, *names))
