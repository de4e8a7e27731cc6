"""Segments: arrays about some clips, written once, read by any number of processes.

A segment is a folder of ``.npy`` files. It gets its name when it is complete, and is never changed; it is removed as a
whole. So readers and writers need no lock, and a killed process leaves nothing but a temporary folder.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder, hash_parts
from supportset.store.files.folder import TEMPORARY, Parts
from supportset.store.files.hashing import as_part, hash_file

Array = NDArray[Any]

CONTENT = "content"  # (n, w) uint64: what decides the arrays of each clip
OFFSETS = "offsets"  # (n + 1,) int64: rows offsets[i]:offsets[i + 1] of the other arrays are those of clip i
_ABOUT = "segment.json"
_VERSION = 1
_NAME = re.compile(r"[0-9a-f]{16}")
_ABANDONED_S = 7 * 24 * 3600  # no segment takes that long to write

# Segments that this process has open. One in memory lives here as long as an index uses it.
_OPEN: WeakValueDictionary[tuple[Path, str], Segment] = WeakValueDictionary()


class DamagedError(Exception):
    """A file of a segment is not what was written.

    Attributes
    ----------
    segment : Segment
        Remove it: it can be made again.
    """

    def __init__(self, segment: Segment) -> None:
        super().__init__(f"{segment.folder / segment.name}: damaged")
        self.segment = segment


class Segment:
    """Arrays about some clips. `read_segments` and `write_segment` make one.

    Each process compares a file with its hash when it uses it for the first time, and maps it.

    Attributes
    ----------
    folder : Path
        Where it is, or would be.
    name : str
    key : str
        What decides the arrays, besides the content of the clips.
    nbytes : int
        Of all arrays.
    in_memory : bool
        It could not be written.
    """

    def __init__(
        self, folder: Path, name: str, key: str, nbytes: int, hashes: Mapping[str, str], arrays: dict[str, Array]
    ) -> None:
        self.folder, self.name, self.key, self.nbytes = folder, name, key, nbytes
        self.in_memory = bool(arrays)
        self._hashes, self._arrays = hashes, arrays
        self._lock = threading.Lock()
        _OPEN[folder, name] = self

    def __getitem__(self, name: str) -> Array:
        """One of the arrays, mapped; `DamagedError` where the file is not what was written."""
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = self._map(name)
            return self._arrays[name]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self[OFFSETS]) - 1

    @property
    def columns(self) -> list[str]:
        """Names of the arrays besides `CONTENT` and `OFFSETS`."""
        names = self._arrays if self.in_memory else self._hashes
        return [name for name in names if name not in (CONTENT, OFFSETS)]

    @property
    def age_s(self) -> float:
        """Seconds since it was written; 0 where it is in memory or gone."""
        try:
            return time.time() - (self.folder / self.name / _ABOUT).stat().st_mtime
        except OSError:
            return 0.0

    def remove(self) -> None:
        """Remove the files, if that is possible. Whoever has mapped them is not disturbed."""
        _OPEN.pop((self.folder, self.name), None)
        path = self.folder / self.name
        hidden = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{self.name}")
        with suppress(OSError):
            path.rename(hidden)  # so that nobody sees half of it
            shutil.rmtree(hidden)

    def _map(self, name: str) -> Array:
        path = self.folder / self.name / f"{name}.npy"
        try:
            if hash_file(path) != self._hashes[name]:
                raise DamagedError(self)
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (SupportsetError, OSError, ValueError, KeyError):
            raise DamagedError(self) from None
        return array


def read_segments(folder: Path) -> list[Segment]:
    """Open the segments of a folder, the largest first; those of any key.

    What a killed process left is removed, and what cannot be read.
    """
    found = {segment.name: segment for (at, _), segment in list(_OPEN.items()) if at == folder and segment.in_memory}
    for name in LocalFolder(folder).names():
        if name.startswith(TEMPORARY):
            _remove_abandoned(folder / name)
        elif _NAME.fullmatch(name):
            segment = _OPEN.get((folder, name)) or _read(folder, name)
            if segment is not None:
                found[name] = segment
    return sorted(found.values(), key=lambda segment: (-segment.nbytes, segment.name))


def write_segment(folder: Path, key: str, arrays: Mapping[str, Array], *, in_memory: bool = False) -> Segment:
    """Write a segment, or keep it in memory.

    Parameters
    ----------
    folder : Path
        Of segments; made where it is missing.
    key : str
        What decides the arrays, besides the content of the clips.
    arrays : mapping
        By name, with `CONTENT` and `OFFSETS`.
    in_memory : bool
        Do not write it.

    Raises
    ------
    SupportsetError
        The folder cannot be written, or the disk is full. Nothing is left behind.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    name, nbytes = secrets.token_hex(8), sum(array.nbytes for array in arrays.values())
    if in_memory:
        return Segment(folder, name, key, nbytes, {}, arrays)
    files: dict[str, Parts] = {f"{name}/{each}.npy": [_header(array), as_part(array)] for each, array in arrays.items()}
    hashes = {each: hash_parts(files[f"{name}/{each}.npy"]) for each in arrays}
    about = {"version": _VERSION, "key": key, "bytes": nbytes, "hashes": hashes}
    content = json.dumps(about).encode()
    LocalFolder(folder).put({**files, f"{name}/{_ABOUT}": [content]})
    return Segment(folder, name, key, nbytes, hashes, {})


def _read(folder: Path, name: str) -> Segment | None:
    try:
        about = json.loads((folder / name / _ABOUT).read_bytes())
        if about["version"] == _VERSION:
            hashes = {str(each): str(value) for each, value in about["hashes"].items()}
            return Segment(folder, name, str(about["key"]), int(about["bytes"]), hashes, {})
    except FileNotFoundError:
        if not (folder / name).exists():  # another process removed it
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    Segment(folder, name, "", 0, {}, {}).remove()
    return None


def _header(array: Array) -> bytes:
    """What precedes the bytes of an array in a ``.npy`` file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(file, np.lib.format.header_data_from_array_1_0(array))
    return file.getvalue()


def _remove_abandoned(path: Path) -> None:
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(path)
