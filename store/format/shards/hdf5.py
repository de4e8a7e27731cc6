"""Shards as HDF5 files with three contiguous datasets.

h5py writes the structure of the file into memory; the bytes of the arrays are put between its pieces. So the store's
write path writes a shard in one piece and without a copy, and no HDF5 file is ever open for writing on disk.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, MappedFile, Part, Parts, as_part
from supportset.store.format.shard import ARRAYS, Array, Compression, EncodedShard, Location, ShardArrays, ShardFormat

ROWS_PER_CHUNK = 256  # of compressed datasets
ALIGNMENT = 64  # bytes: arrays begin on a cache line
PAGE = 4096


class Hdf5Format(ShardFormat):
    """HDF5: one file a shard."""

    name = "hdf5"
    suffix = ".h5"
    codec = "gzip"

    def encode(self, shard: str, arrays: ShardArrays, compression: Compression | None = None) -> EncodedShard:
        """Let h5py lay out the file, then insert the arrays."""
        root = self.root(shard)
        if compression:
            return EncodedShard({root: [_archive(arrays, compression)]}, {})
        image = _Image()
        locations = {}
        # No row then crosses more pages than it must; and rows are aligned as in Zarr shards, which begin with a page.
        interval = max(ALIGNMENT, math.gcd(PAGE, arrays.values[:1].nbytes))
        structure = {"alignment_threshold": 1, "alignment_interval": interval, "meta_block_size": 8192}
        with h5py.File(image, "w", **structure) as file:
            file.attrs["format"] = "supportset-shard"
            for name, array in arrays.items():
                dataset = _reserve(file, name, array.shape, array.dtype)
                locations[name] = Location(root, dataset.get_offset(), array.dtype.name, array.shape)
        content = {locations[name].offset: as_part(array) for name, array in arrays.items()}
        return EncodedShard({root: image.filled(content)}, locations)

    def is_compressed(self, folder: Folder, shard: str, compression: Compression) -> bool:
        """Compare the filters of the datasets."""
        with self._open(folder, shard) as file:
            filters = {(file[name].compression, file[name].compression_opts, file[name].shuffle) for name in ARRAYS}
        return filters == {(compression.codec, compression.level, True)}

    def locate(self, folder: Folder, shard: str) -> dict[str, Location]:
        """Locate the arrays with h5py."""
        root = self.root(shard)
        found = {}
        with self._open(folder, shard) as file:
            for name in ARRAYS:
                dataset = file[name]
                offset = dataset.id.get_offset()
                if offset is None:
                    raise SupportsetError(f"{folder}/{root}: {name} is not contiguous, so it cannot be mapped")
                found[name] = Location(root, offset, dataset.dtype.name, dataset.shape)
        return found

    def decode(self, folder: Folder, shard: str, name: str) -> Array:
        """Read an array with h5py."""
        with self._open(folder, shard) as file:
            array: Array = file[name][()]
            return array

    @contextmanager
    def _open(self, folder: Folder, shard: str) -> Iterator[h5py.File]:
        root = self.root(shard)
        if not folder.size(root):
            raise self.missing(folder, root, shard)
        try:
            with h5py.File(_Reading(folder.map(root)), "r") as file:
                yield file
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise SupportsetError(
                f"{folder}/{root}: not readable as an HDF5 shard ({error}): restore the file, "
                "or run `store verify --drop-damaged` and then the same `extract` again"
            ) from None


FORMAT = Hdf5Format()


class _Image(io.RawIOBase):
    """Sparse file in memory for h5py to write to: a few pieces, without the gaps between them."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytes]] = []
        self._position = 0
        self._end = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._pieces.append((self._position, bytes(data)))
        self._position += len(self._pieces[-1][1])
        self._end = max(self._end, self._position)
        return len(self._pieces[-1][1])

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self._end - self._position), 0)
        buffer[:length] = self._between(self._position, self._position + length)
        self._position += length
        return length

    def truncate(self, size: int | None = None) -> int:
        self._end = self._position if size is None else size
        return self._end

    def filled(self, arrays: dict[int, memoryview]) -> Parts:
        """Parts of the file, with the bytes of the arrays at their offsets."""
        parts: list[Part] = []
        position = 0
        for offset, content in sorted(arrays.items()):
            parts += [self._between(position, offset), content]
            position = offset + len(content)
        parts.append(self._between(position, self._end))
        return parts

    def _between(self, start: int, stop: int) -> bytes:
        found = bytearray(max(stop - start, 0))
        for at, data in self._pieces:
            low, high = max(at, start), min(at + len(data), stop)
            if low < high:
                found[low - start : high - start] = data[low - at : high - at]
        return bytes(found)


class _Reading(io.RawIOBase):
    """Mapped file for h5py to read from; ranges of a remote file are fetched as they are read."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._content = file.content
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._content)}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), len(self._content))
        self._file.fetch([(self._position, stop)])
        piece = self._content[self._position : stop]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


def _archive(arrays: ShardArrays, compression: Compression) -> memoryview:
    """File with compressed datasets, in chunks of as many rows as a Zarr shard has."""
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["format"] = "supportset-shard"
        for name, array in arrays.items():
            chunks = (min(ROWS_PER_CHUNK, len(array)), *array.shape[1:])
            packing = {"compression": compression.codec, "compression_opts": compression.level, "shuffle": True}
            file.create_dataset(name, data=array, chunks=chunks, **packing)
    return image.getbuffer()


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Make a contiguous dataset and allocate its bytes, but write none."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)  # equal content, equal bytes
    kind = h5py.h5t.py_create(dtype, logical=True)
    return h5py.h5d.create(file.id, name.encode("ascii"), kind, h5py.h5s.create_simple(shape), plan)
