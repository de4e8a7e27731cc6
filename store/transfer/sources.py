"""Sources of an import: a folder of files, one file of named arrays, or one table with an id list."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import hash_file, telling
from supportset.store.format.shard import Array
from supportset.store.transfer.arrays import DAMAGE, NUMPY_FILES, TORCH_FILES, Fault, one_line, parse_file
from supportset.store.write.writer import Source

CLIP_FILES = (*NUMPY_FILES, *TORCH_FILES)
IDS = "ids.txt"
VALUES = "values.npy"
OFFSETS = "offsets.npy"

T = TypeVar("T")


@dataclass(frozen=True)
class Naming:
    """Rule from the names in a source to clip ids.

    Attributes
    ----------
    id_from : str
        ``stem``: the last part of a name; ``path``: the full name, relative to the source's root.
    strip : str
        End of each name that is not a part of the id, such as ``_resnet`` or ``.mp4``.
    only : Path or None
        Path of an id list: only these clips are imported.
    key : str or None
        Name of the array, if each file or group holds several.
    follow_links : bool
        Whether an HDF5 file may name any other files.
    """

    id_from: str = "stem"
    strip: str = ""
    only: Path | None = None
    key: str | None = None
    follow_links: bool = False

    def clip_id(self, name: str) -> str:
        """Return the clip id of a name (with ``/``, without the suffix of a file)."""
        name = name if self.id_from == "path" else name.rpartition("/")[2]
        return name.removesuffix(self.strip) if name != self.strip else name

    def by_id(self, names: Iterable[tuple[str, T]], source: object) -> dict[str, T]:
        """Return the values by clip id; UsageError if two have the same id, or one has none."""
        found: dict[str, T] = {}
        for name, value in names:
            clip_id = self.clip_id(name)
            if clip_id.encode("utf-8", "replace").decode() != clip_id:
                raise UsageError(f"{source}: the name {name!r} is not valid Unicode: rename the file")
            if not clip_id:
                raise UsageError(f"{source}: the name {name!r} leaves no clip id: change --strip or --id-from")
            if clip_id in found:
                raise UsageError(
                    f"{source}: {found[clip_id]!r} and {value!r} both have the clip id {clip_id!r}: "
                    "remove one, change --strip, or use --id-from path"
                )
            found[clip_id] = value
        return found


class ClipArrays(ABC):
    """Arrays by clip id, read on request.

    Attributes
    ----------
    path : Path
        Path of the source.
    form : str
        Description of the form.
    ids : iterable of str
        Ids of the clips, in the source's order.
    absent : list of str
        Ids of the id list that are not in the source.
    notes : list of str
        Remarks for the user, one line each.
    others : set of str
        Names of other files that the source refers to, and that were read.
    """

    form: str

    def __init__(self, path: Path, ids: Iterable[str], naming: Naming) -> None:
        self.path = path
        self.notes: list[str] = []
        self.absent: list[str] = []
        self.others: set[str] = set()
        self.ids = list(ids)
        if naming.only is not None:
            held, wanted = set(self.ids), read_ids(naming.only)
            self.absent = [clip_id for clip_id in wanted if clip_id not in held]
            self.ids = [clip_id for clip_id in wanted if clip_id in held]
            if others := len(held) - len(self.ids):
                self.notes.append(f"clips that are not in {naming.only.name}, and not imported: {others:,}")
        if not self.ids:
            listed = f" that {naming.only} names" if naming.only else ""
            raise UsageError(f"{path}: holds no clip{listed}; it is read as {self.form}")

    @abstractmethod
    def locate(self, clip_id: str) -> Source:
        """Return file, size and time of a clip's array, without a hash. Raises Fault if the file is missing."""

    @abstractmethod
    def hash(self, clip_id: str) -> str:
        """Hash the file that holds a clip: ``xxh3-128:<hex>``."""

    @abstractmethod
    def read(self, clip_id: str) -> tuple[Array, str]:
        """Return a clip's array and the hash of its file. Raises Fault."""

    def listing(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every file of the source."""
        for clip_id in self.ids:
            try:
                source = self.locate(clip_id)
            except Fault:
                continue
            yield source.path, source.size


class FolderOfFiles(ClipArrays):
    """A folder, at any depth, with one ``.npy``, ``.npz`` or ``.pt`` file a clip."""

    form = "a folder of one .npy, .npz or .pt file a clip"

    def __init__(self, path: Path, naming: Naming) -> None:
        found, others = [], []
        for name in sorted(_walk(path)):
            # macOS leaves "._x.npy" beside x.npy on other file systems
            if Path(name).suffix.lower() in CLIP_FILES and not Path(name).name.startswith("._"):
                found.append((name[: -len(Path(name).suffix)], name))
            else:
                others.append(name)
        self._key = naming.key
        self._files = naming.by_id(found, path)
        super().__init__(path, self._files, naming)
        if others:
            self.notes.append(f"other files, not imported: {len(others):,} ({', '.join(others[:3])})")

    def locate(self, clip_id: str) -> Source:
        name = self._files[clip_id]
        return _stat(self.path / name, f"{name}::{self._key}" if self._key else name)

    def hash(self, clip_id: str) -> str:
        return hash_file(self.path / self._files[clip_id])

    def read(self, clip_id: str) -> tuple[Array, str]:
        path = self.path / self._files[clip_id]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Fault("unreadable", f"cannot be read: {error.strerror or error}") from None
        array = parse_file(content, path.suffix.lower(), self._key)
        return array, f"xxh3-128:{xxhash.xxh3_128_hexdigest(content)}"


class OneFile(ClipArrays):
    """Arrays in one file, whose hash is computed once."""

    _hash: str | None = None

    def hash(self, clip_id: str) -> str:
        if self._hash is None:
            self._hash = hash_file(self._file)
        return self._hash

    def locate(self, clip_id: str) -> Source:
        return _stat(self._file, f"{self._file.name}::{self._place(clip_id)}")

    def read(self, clip_id: str) -> tuple[Array, str]:
        return self._array(clip_id), self.hash(clip_id)

    def listing(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of the file."""
        yield self._file.name, os.stat(self._file).st_size

    @property
    def _file(self) -> Path:
        return self.path

    @abstractmethod
    def _place(self, clip_id: str) -> str:
        """Name of a clip's place in the file."""

    @abstractmethod
    def _array(self, clip_id: str) -> Array:
        """A clip's array; raises Fault."""


class OneTable(OneFile):
    """One array of all clips' steps: (N, D), (N, T, D), or (ΣT, D) with offsets; and an id list.

    Parameters
    ----------
    path : Path
        File of the array.
    table : ndarray
        The array, possibly mapped.
    naming : Naming
        Names an id list: of the rows, or if they have ids, the clips to import.
    ids : list of str, optional
        Ids of the rows; default: those in the id list, or in ``ids.txt`` beside the file.
    offsets : ndarray, optional
        Path of the offsets, (N + 1,) integers; for (ΣT, D).
    """

    form = "one array with an id list"

    def __init__(
        self, path: Path, table: Array, naming: Naming, ids: list[str] | None = None, offsets: Array | None = None
    ) -> None:
        if ids is None:  # the id list has those of all rows, not a choice
            ids, of, naming = read_ids(naming.only or path.with_name(IDS)), naming.only or IDS, Naming()
        else:
            of = "its ids"
        self._bounds = self._rows(path, table, len(ids), of, offsets)
        self._table = table
        self._row = {clip_id: row for row, clip_id in enumerate(ids)}
        if len(self._row) < len(ids):
            raise UsageError(f"{path}: {of} name a clip twice: each clip once")
        super().__init__(path, ids, naming)

    @staticmethod
    def _rows(path: Path, table: Array, count: int, ids: object, offsets: Array | None) -> list[int] | None:
        if offsets is None:
            if table.ndim not in (2, 3) or table.dtype.kind == "O":
                raise UsageError(
                    f"{path}: {table.dtype} {table.shape}: an array with an id list is (N, D) or (N, T, D)"
                )
            if len(table) != count:
                raise UsageError(f"{path}: has {len(table):,} rows, {ids} names {count:,} clips: they must be as many")
            return None
        if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) != count + 1:
            raise UsageError(
                f"{path}: offsets are {offsets.dtype} {offsets.shape}: must be {count + 1:,} integers for {ids}"
            )
        rows: list[int] = offsets.tolist()
        if table.ndim != 2 or rows[0] != 0 or rows[-1] != len(table) or rows != sorted(rows):
            raise UsageError(f"{path}: offsets must rise from 0 to the number of its rows; its shape is {table.shape}")
        return rows

    def _place(self, clip_id: str) -> str:
        row = self._row[clip_id]
        return str(row) if self._bounds is None else f"{self._bounds[row]}:{self._bounds[row + 1]}"

    def _array(self, clip_id: str) -> Array:
        row = self._row[clip_id]
        return np.array(self._table[row] if self._bounds is None else self._table[slice(*self._bounds[row : row + 2])])


def read_ids(path: Path) -> list[str]:
    """Read an id list, one id a line; UsageError names an empty or repeated line."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file: check the path of the id list")
    try:
        with telling("read the id list", path):
            lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None
    if lines and not lines[-1]:
        lines.pop()
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        clip_id = line.removesuffix("\r")
        if not clip_id.strip():
            raise UsageError(f"{path}: line {number} is empty: one clip id a line")
        if clip_id in seen:
            raise UsageError(
                f"{path}: line {number} names {clip_id!r} again, after line {seen[clip_id]}: each clip once"
            )
        seen[clip_id] = number
    return list(seen)


def load_table(path: Path) -> Array:
    try:
        table: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGE as error:
        raise SupportsetError(f"{path}: not readable as a NumPy array ({one_line(error)}): write it anew") from None
    if not isinstance(table, np.ndarray):
        raise SupportsetError(f"{path}: is an .npz file by its content: rename it to .npz")
    return table


def _stat(path: Path, name: str) -> Source:
    try:
        found = os.stat(path)
    except OSError as error:
        raise Fault("unreadable", f"cannot be read: {error.strerror or error}") from None
    return Source(name, found.st_size, found.st_mtime_ns)


def _walk(root: Path) -> Iterator[str]:
    """Yield the files below a folder, relative, with ``/``; linked folders are followed, each once."""
    seen = set()

    def refuse(error: OSError) -> None:
        raise error

    with telling("list the folder", root):
        for folder, subfolders, files in os.walk(root, followlinks=True, onerror=refuse):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                subfolders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            subfolders.sort()
            yield from ((Path(folder) / name).relative_to(root).as_posix() for name in files)
