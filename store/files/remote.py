"""Folders of object stores and other remote storage, through fsspec.

An object appears complete or not at all, but cannot be renamed, and several objects appear one by one. So objects are
written under their final names, and the order of writes (the index of a shard last) protects readers.
"""

from __future__ import annotations

import errno
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, TypeVar

import fsspec

from supportset.store.errors import SupportsetError
from supportset.store.files.block_cache import default_cache
from supportset.store.files.folder import TEMPORARY, Folder, MappedFile, Parts
from supportset.store.files.object_info import is_file, version, written_at
from supportset.store.files.places import RemotePath, check_name
from supportset.store.files.remote_errors import names_missing_bucket, telling_drivers, telling_remote

AT_ONCE = 64  # concurrent small requests
PIECE = 4 << 20  # bytes of one request of a large read
PIECES_AT_ONCE = 4

_DISCARDED = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{8}-(.+)")

T = TypeVar("T")
S = TypeVar("S")


class RemoteFolder:
    """A prefix of an object store, or a folder of another file system that fsspec knows.

    It can be pickled, and survives a fork: each process makes its connection.

    Parameters
    ----------
    place : RemotePath

    Raises
    ------
    UsageError
        The kind of URL is unknown, or its driver is not installed.
    """

    def __init__(self, place: RemotePath) -> None:
        self.place = place
        self._connection: tuple[int, Any, str] | None = None
        self._infos: dict[str, dict[str, Any]] = {}
        self._connected()

    def __str__(self) -> str:
        return str(self.place)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.place,)

    def child(self, name: str) -> Folder:
        """Return a subfolder."""
        place = self.place
        for part in PurePosixPath(name).parts:
            place = place / check_name(part)
        return RemoteFolder(place)

    def names(self) -> list[str]:
        """List the names in the folder, sorted; empty if it is missing."""
        return sorted(self._listed())

    def stamps(self) -> dict[str, str]:
        """Size and version of each object right in the folder, by name."""
        return {name: f"{info['size']} {version(info)}" for name, info in self._listed().items() if is_file(info)}

    def glob(self, pattern: str) -> list[str]:
        """List the names of files that match a pattern, sorted; each folder takes a listing."""
        *folders, last = pattern.split("/")
        found = [""]
        for part in folders:
            if part == "*":
                listed = self._side_by_side(lambda base: (self.child(base) if base else self).names(), found)
                found = [f"{base}{name}/" for base, names in zip(found, listed, strict=True) for name in names]
            else:
                found = [f"{base}{part}/" for base in found]
        names = [f"{base}{last}" for base in found]
        sizes = self._side_by_side(self.size, names)
        return sorted(name for name, size in zip(names, sizes, strict=True) if size is not None)

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes, None if it is missing."""
        info = self._info(name)
        if info is None:
            self._infos.pop(name, None)
            return None
        self._infos[name] = info
        return int(info["size"])

    def changed(self, name: str) -> float | None:
        """Return the time of the latest write in a tree, by the storage's clock; None if it is empty."""
        times = [written_at(info) for info in self._below(name).values()]
        return None if not times else math.nan if any(map(math.isnan, times)) else max(times)

    def files(self, name: str) -> dict[str, int]:
        """Return the sizes in bytes of the objects of a tree, or of one object, by name."""
        start = len(self._connected()[1]) + 1
        found = {path[start:]: info for path, info in sorted(self._below(name).items())}
        self._infos |= found
        return {file: int(info["size"]) for file, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """Read an object; None if it is missing."""
        return next(self.read_many([name]))

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Read objects in the order of the names, concurrently; None for a missing one."""
        for start in range(0, len(names), AT_ONCE):
            group = names[start : start + AT_ONCE]
            system, _ = self._connected()
            with telling_remote("read", self):
                contents = system.cat_ranges([self._path(name) for name in group], None, None, on_error="return")
            for name, content in zip(group, contents, strict=True):
                if isinstance(content, FileNotFoundError | IsADirectoryError) and not names_missing_bucket(content):
                    yield None
                    continue
                with telling_remote("read the object", self.place / name):
                    if isinstance(content, Exception):
                        raise content
                yield bytes(content)

    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """Read an object in pieces of some MB, concurrently and without the cache."""
        size = int(self._known(name)["size"])
        spans = [(start, min(start + PIECE, size)) for start in range(0, size, PIECE)]
        for first in range(0, len(spans), PIECES_AT_ONCE):
            yield from self.read_ranges(name, spans[first : first + PIECES_AT_ONCE])

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read ranges of an object, (start, stop) each, by concurrent requests.

        Raises
        ------
        SupportsetError
            The storage refuses, or returns fewer bytes than requested.
        """
        system, _ = self._connected()
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        with telling_remote("read the object", self.place / name):
            contents = system.cat_ranges([self._path(name)] * len(ranges), starts, stops, on_error="raise")
        for start, stop, content in zip(starts, stops, contents, strict=True):
            if len(content) != stop - start:
                raise SupportsetError(
                    f"{self.place / name}: returned {len(content)} of {stop - start} bytes at {start}: "
                    "the object changed, or the answer was truncated: try again"
                )
        return list(contents)

    def map(self, name: str) -> MappedFile:
        """Map an object: its blocks are fetched on request, and kept in the local cache."""
        info = self._known(name)
        url, size = str(self.place / name), int(info["size"])
        return default_cache().open(url, version(info), size, lambda ranges: self.read_ranges(name, ranges))

    def put(self, files: Mapping[str, Parts], *, replace: bool = True) -> bool:
        """Write one object, or the objects of one tree.

        Parameters
        ----------
        files : mapping
            Content by name; all names share their first component.
        replace : bool, default True
            Whether an object of that name may be replaced (a tree never is). Where the storage knows no
            conditional write, this is looked up before writing: of two writers at the same moment the later
            one wins.

        Returns
        -------
        bool
            False if the name is taken and ``replace`` is false: then nothing is written.

        Raises
        ------
        SupportsetError
            The storage refuses. A single object is then the old one or missing; a partial tree is removed if
            possible.
        """
        roots = {PurePosixPath(name).parts[0] for name in files}
        if len(roots) != 1:
            raise ValueError(f"files of one put share their first component, not {sorted(roots)}")
        root = roots.pop()
        system, _ = self._connected()
        contents = {self._path(name): _joined(parts) for name, parts in files.items()}
        with telling_remote("write", self.place / root):
            if list(files) == [root]:
                ((path, content),) = contents.items()
                if not replace:
                    return self._create(root, path, content)
                system.pipe_file(path, content)
                return True
            if self._below(root):
                raise SupportsetError(f"{self.place / root}: cannot write: it exists, and is never replaced")
            try:
                system.pipe(contents)
            except Exception:
                with suppress(SupportsetError):
                    self.remove(root)
                raise
        return True

    def remove(self, name: str) -> None:
        """Remove an object or a tree, if it exists."""
        system, _ = self._connected()
        if there := list(self._below(name)):
            with telling_remote("remove", self.place / name), suppress(FileNotFoundError):
                system.rm(there)

    def remove_unless(self, name: str, there: str | None) -> bool:
        """Remove an object or a tree unless ``there`` exists."""
        if there is not None and self.size(there) is not None:
            return False
        self.remove(name)
        return True

    def discard(self, name: str, first: str) -> None:
        """Put a note of the removal, then remove ``first``, the rest of the tree, and the note."""
        note = f"{TEMPORARY}{secrets.token_hex(4)}-{name}"
        self.put({note: [b"is being removed"]})
        for other in self.names():
            if match := _DISCARDED.fullmatch(other):
                tree = f"{match[1]}/{first}"
                if other == note or self.size(tree) is None:  # or it was written anew since
                    self.remove(tree)
                    self.remove(match[1])
                self.remove(other)

    def prune(self, name: str) -> None:
        """Do nothing: an object store has no empty folders."""

    def _create(self, name: str, path: str, content: bytes | bytearray) -> bool:
        """Write an object unless it exists; return whether it was written."""
        system, _ = self._connected()
        try:
            system.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except (OSError, TypeError, ValueError) as error:
            if self.size(name) is not None:  # another form of the error, or a concurrent write
                return False
            if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
                raise
            system.pipe_file(path, content)  # no conditional writes: there is no atomic way
        return True

    def _connected(self) -> tuple[Any, str]:
        """File system of fsspec, and the folder's path in it."""
        if self._connection is None or self._connection[0] != os.getpid():
            with telling_drivers(str(self.place)):
                # No cached listings: other processes write too.
                system, root = fsspec.core.url_to_fs(str(self.place), use_listings_cache=False)
            self._connection = os.getpid(), system, root.rstrip("/")
        return self._connection[1:]

    def _path(self, name: str) -> str:
        return f"{self._connected()[1]}/{check_name(name)}"

    def _listed(self) -> dict[str, dict[str, Any]]:
        """Metadata of what is directly in the folder, by name."""
        system, root = self._connected()
        with telling_remote("list the folder", self):
            try:
                listed = system.ls(root, detail=True)
            except FileNotFoundError as error:
                if names_missing_bucket(error):
                    raise
                return {}
        found = {info["name"].rstrip("/"): info for info in listed}
        # An object of the folder's own name lists itself.
        return {path.rpartition("/")[2]: info for path, info in found.items() if path not in ("", root)}

    def _known(self, name: str) -> dict[str, Any]:
        """Metadata of an object, from the last :meth:`size` or :meth:`files`, or from the storage."""
        info = self._infos.pop(name, None) or self._info(name)
        if info is None:
            raise SupportsetError(f"{self.place / name}: cannot read the object: it does not exist; check the path")
        return info

    def _info(self, name: str) -> dict[str, Any] | None:
        """Metadata of an object, None if it is missing."""
        system, _ = self._connected()
        with telling_remote("look at the object", self.place / name):
            try:
                info: dict[str, Any] = system.info(self._path(name))
            except FileNotFoundError as error:
                if names_missing_bucket(error):
                    raise
                return None
        return info if is_file(info) else None

    def _below(self, name: str) -> dict[str, dict[str, Any]]:
        """Metadata of the objects of a tree, or of one object, by path."""
        system, _ = self._connected()
        with telling_remote("list", self.place / name):
            try:
                found: dict[str, dict[str, Any]] = system.find(self._path(name), detail=True)
            except FileNotFoundError as error:
                if names_missing_bucket(error):
                    raise
                return {}
        return {path: info for path, info in found.items() if is_file(info)}

    def _side_by_side(self, ask: Callable[[S], T], items: Sequence[S]) -> list[T]:
        system, _ = self._connected()
        if len(items) < 2 or not system.async_impl:  # other drivers need not be thread-safe
            return list(map(ask, items))
        with ThreadPoolExecutor(min(16, len(items))) as pool:
            return list(pool.map(ask, items))


def _joined(parts: Parts) -> bytes | bytearray:
    if len(parts) == 1 and isinstance(parts[0], bytes):
        return parts[0]
    content = bytearray()
    for part in parts:
        content += part
    return content
