"""Folders of object stores and other remote storage, through fsspec.

An object appears whole or not at all, but cannot be renamed, and several objects appear one by one. So files get their
final names at once; the order of the calls (the index of a shard last) keeps readers from what is not whole.
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

AT_ONCE = 64  # small requests under way at a time
PIECE = 4 << 20  # bytes of one request of a large read
PIECES_AT_ONCE = 4

_DISCARDED = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{8}-(.+)")

T = TypeVar("T")
S = TypeVar("S")


class RemoteFolder:
    """A prefix of an object store, or a folder of another file system that fsspec knows.

    It can be sent to another process, and lives through a fork: connections are made where they are used.

    Parameters
    ----------
    place : where

    Raises
    ------
    UsageError
        No driver for this kind of URL is installed, or the kind is not known.
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
        """A folder in this one."""
        place = self.place
        for part in PurePosixPath(name).parts:
            place = place / check_name(part)
        return RemoteFolder(place)

    def names(self) -> list[str]:
        """Names in the folder, sorted; empty where it is absent."""
        return sorted(self._listed())

    def stamps(self) -> dict[str, str]:
        """Size and version of each object right in the folder, by name."""
        return {name: f"{info['size']} {version(info)}" for name, info in self._listed().items() if is_file(info)}

    def glob(self, pattern: str) -> list[str]:
        """Names of files that fit a pattern, sorted; a listing for each folder on the way."""
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
        """Size of an object in bytes, None where it is absent."""
        info = self._info(name)
        if info is None:
            self._infos.pop(name, None)
            return None
        self._infos[name] = info
        return int(info["size"])

    def changed(self, name: str) -> float | None:
        """When the youngest object of a tree was written, by the storage's clock; None where there is none."""
        times = [written_at(info) for info in self._below(name).values()]
        return None if not times else math.nan if any(map(math.isnan, times)) else max(times)

    def files(self, name: str) -> dict[str, int]:
        """Names and sizes in bytes of the objects of a tree, or of the one object."""
        start = len(self._connected()[1]) + 1
        found = {path[start:]: info for path, info in sorted(self._below(name).items())}
        self._infos |= found
        return {file: int(info["size"]) for file, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """Content of an object, None where it is absent."""
        return next(self.read_many([name]))

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Contents of objects in the order of the names, None for each that is absent; many requests at a time."""
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
        """Content of an object in pieces of some MB, several requests at a time, past the cache."""
        size = int(self._known(name)["size"])
        spans = [(start, min(start + PIECE, size)) for start in range(0, size, PIECE)]
        for first in range(0, len(spans), PIECES_AT_ONCE):
            yield from self.read_ranges(name, spans[first : first + PIECES_AT_ONCE])

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ranges of an object's bytes, start and stop, one request each, at the same time.

        Raises
        ------
        SupportsetError
            The storage refuses, or answers with fewer bytes than were asked for.
        """
        system, _ = self._connected()
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        with telling_remote("read the object", self.place / name):
            contents = system.cat_ranges([self._path(name)] * len(ranges), starts, stops, on_error="raise")
        for start, stop, content in zip(starts, stops, contents, strict=True):
            if len(content) != stop - start:
                raise SupportsetError(
                    f"{self.place / name}: gave {len(content)} bytes for the {stop - start} from {start} on: "
                    "the object changed, or the answer was cut short; try again"
                )
        return list(contents)

    def map(self, name: str) -> MappedFile:
        """An object as memory: blocks of it are read when asked for, and kept in the local cache."""
        info = self._known(name)
        url, size = str(self.place / name), int(info["size"])
        return default_cache().open(url, version(info), size, lambda ranges: self.read_ranges(name, ranges))

    def put(self, files: Mapping[str, Parts], *, replace: bool = True) -> bool:
        """Write one object, or the objects of one tree, under their final names.

        Parameters
        ----------
        files : content by name; all names share their first component
        replace : whether an object of that name may be replaced (a tree never is). Where the storage knows no
            conditional write, this is looked up before writing: of two writers at the same moment the later one wins

        Returns
        -------
        bool
            False where the name is taken and ``replace`` is false: nothing is written then.

        Raises
        ------
        SupportsetError
            The storage refuses. A single object is the old one or absent then; of a tree, what is there already is
            removed again as far as possible.
        """
        roots = {PurePosixPath(name).parts[0] for name in files}
        if len(roots) != 1:
            raise ValueError(f"one name at a time can appear whole, not {sorted(roots)}")
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
                raise SupportsetError(f"{self.place / root}: cannot write: is there already, and is never replaced")
            try:
                system.pipe(contents)
            except Exception:
                with suppress(SupportsetError):
                    self.remove(root)
                raise
        return True

    def remove(self, name: str) -> None:
        """Remove an object or a tree; no error where it is absent."""
        system, _ = self._connected()
        if there := list(self._below(name)):
            with telling_remote("remove", self.place / name), suppress(FileNotFoundError):
                system.rm(there)

    def remove_unless(self, name: str, there: str | None) -> bool:
        """Remove an object or a tree, unless ``there`` is."""
        if there is not None and self.size(there) is not None:
            return False
        self.remove(name)
        return True

    def discard(self, name: str, first: str) -> None:
        """Remove a tree: a note of it is put, then ``first`` goes, then the rest, then the note."""
        note = f"{TEMPORARY}{secrets.token_hex(4)}-{name}"
        self.put({note: [b"is being removed"]})
        for other in self.names():
            if match := _DISCARDED.fullmatch(other):
                tree = f"{match[1]}/{first}"
                if other == note or self.size(tree) is None:  # else it was written anew since
                    self.remove(tree)
                    self.remove(match[1])
                self.remove(other)

    def prune(self, name: str) -> None:
        """Nothing: an object store has no empty folders."""

    def _create(self, name: str, path: str, content: bytes | bytearray) -> bool:
        """Write an object unless there is one; say whether it was written."""
        system, _ = self._connected()
        try:
            system.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except (OSError, TypeError, ValueError) as error:
            if self.size(name) is not None:  # told in another way, or written at the same moment
                return False
            if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
                raise
            system.pipe_file(path, content)  # knows no conditional write: the best that is left
        return True

    def _connected(self) -> tuple[Any, str]:
        """The fsspec file system, and the folder's path in it."""
        if self._connection is None or self._connection[0] != os.getpid():
            with telling_drivers(str(self.place)):
                # No listings from memory: other processes write too.
                system, root = fsspec.core.url_to_fs(str(self.place), use_listings_cache=False)
            self._connection = os.getpid(), system, root.rstrip("/")
        return self._connection[1:]

    def _path(self, name: str) -> str:
        return f"{self._connected()[1]}/{check_name(name)}"

    def _listed(self) -> dict[str, dict[str, Any]]:
        """What the storage says of what is right in the folder, by name."""
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
        """What :meth:`size` or :meth:`files` were told of an object just before; else what the storage says now."""
        info = self._infos.pop(name, None) or self._info(name)
        if info is None:
            raise SupportsetError(f"{self.place / name}: cannot read the object: it is gone; check the path")
        return info

    def _info(self, name: str) -> dict[str, Any] | None:
        """What the storage says of an object, None where there is none."""
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
        """What the storage says of each object of a tree, or of the one object, by path."""
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
        if len(items) < 2 or not system.async_impl:  # drivers of the other kind need not bear several threads
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
