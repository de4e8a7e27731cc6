"""The same job done otherwise: the clips of a batch packed into one array, with where each begins.

Each is written as someone would who knows the library: files stay open, groups are opened once.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import zarr

from benchmarks.store.corpus import Array, Corpus
from supportset.store.files import as_part, open_folder
from supportset.store.files.memory import empty_aligned
from supportset.store.format.index import read_all
from supportset.store.format.registry import shard_format
from supportset.store.read.feature_set import FeatureSet

THREADS = 64  # more bring no more


class Reader(Protocol):
    """A way to read batches."""

    def read(self, rows: Array) -> tuple[Array, Array]:
        """The clips of the corpus in these rows: (ΣT, D) and (N + 1,) offsets."""
        ...


class RamSlices:
    """The limit: slices copied from one array in memory, with the bookkeeping that any reader has.

    Parameters
    ----------
    corpus : Corpus
        What is read.
    small_pages : bool
        Have the array in pages of 4 KB, as files are in the kernel's cache; else in what NumPy asks for, pages of 2 MB
        where the system has them.
    """

    def __init__(self, corpus: Corpus, small_pages: bool = False) -> None:
        self._values, self._starts, self._lengths = corpus.packed(), corpus.offsets[:-1], corpus.lengths
        if small_pages:
            memory = mmap.mmap(-1, self._values.nbytes)
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            paged = np.frombuffer(memory, self._values.dtype).reshape(self._values.shape)
            np.copyto(paged, self._values)
            self._values = paged

    def read(self, rows: Array) -> tuple[Array, Array]:
        lengths = self._lengths[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        starts = self._starts[rows]
        values = self._values
        out = empty_aligned((int(offsets[-1]), values.shape[1]), values.dtype)
        bounds = offsets.tolist()
        for start, stop, low, high in zip(
            starts.tolist(), (starts + lengths).tolist(), bounds[:-1], bounds[1:], strict=True
        ):
            out[low:high] = values[start:stop]
        return out, offsets


class NpyFiles:
    """One ``.npy`` a clip, ``np.load``: what most code of the field does."""

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self._folder, self._ids = str(folder), ids

    def path(self, row: int) -> Path:
        """File of a clip."""
        return Path(f"{self._folder}/{self._ids[row]}.npy")

    def read(self, rows: Array) -> tuple[Array, Array]:
        return _packed([np.load(f"{self._folder}/{self._ids[row]}.npy") for row in rows.tolist()])


class Hdf5Datasets:
    """One HDF5 dataset a clip, the file kept open."""

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self._file, self._ids = h5py.File(path, "r"), ids

    def read(self, rows: Array) -> tuple[Array, Array]:
        return _packed([self._file[self._ids[row]][()] for row in rows.tolist()])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LibrarySlices:
    """Our own shards read through zarr-python or h5py: each array opened once, a slice a clip."""

    def __init__(self, path: Path, kind: str, ids: Sequence[str]) -> None:
        self._shards, self._starts, self._stops, shards = places(path, ids)
        roots = [path / "shards" / shard_format(kind).root(shard) for shard in shards]
        if kind == "zarr":
            self._arrays: list[Any] = [zarr.open_group(root, mode="r")["values"] for root in roots]
        else:
            self._arrays = [h5py.File(root, "r")["values"] for root in roots]

    def read(self, rows: Array) -> tuple[Array, Array]:
        columns = (each[rows].tolist() for each in (self._shards, self._starts, self._stops))
        return _packed([self._arrays[shard][start:stop] for shard, start, stop in zip(*columns, strict=True)])


class BareMaps:
    """Our own shards mapped into memory and sliced, with nothing asked ahead."""

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self._shards, self._starts, self._stops, shards = places(path, ids)
        indexes = {index.shard: index for index in read_all(open_folder(path).child("shards"))[0]}
        self._views = []
        for shard in shards:
            location = indexes[shard].arrays["values"]
            with open(path / "shards" / location.file, "rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            self._views.append(location.view(content))

    def read(self, rows: Array) -> tuple[Array, Array]:
        columns = [each[rows] for each in (self._shards, self._starts, self._stops)]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(columns[2] - columns[1], out=offsets[1:])
        bounds = offsets.tolist()
        views = self._views
        out = empty_aligned((bounds[-1], views[0].shape[1]), views[0].dtype)
        for shard, start, stop, low, high in zip(
            *(column.tolist() for column in columns), bounds[:-1], bounds[1:], strict=True
        ):
            out[low:high] = views[shard][start:stop]
        return out, offsets


class ManyThreads:
    """The same bytes of our own shards by plain reads, a clip each, from many threads: what the disk can give.

    Nobody would write that; it shows how much of a figure is the disk's.
    """

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self._shards, self._starts, self._stops, shards = places(path, ids)
        indexes = {index.shard: index for index in read_all(open_folder(path).child("shards"))[0]}
        locations = [indexes[shard].arrays["values"] for shard in shards]
        self._files = [open(path / "shards" / location.file, "rb", buffering=0) for location in locations]  # noqa: SIM115
        for file in self._files:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._first = [location.offset for location in locations]
        self._columns, self._dtype = locations[0].shape[1], np.dtype(locations[0].dtype)
        self._threads = ThreadPoolExecutor(THREADS)

    def read(self, rows: Array) -> tuple[Array, Array]:
        columns = [each[rows] for each in (self._shards, self._starts, self._stops)]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(columns[2] - columns[1], out=offsets[1:])
        out = empty_aligned((int(offsets[-1]), self._columns), self._dtype)
        parts = np.split(out, offsets[1:-1])
        list(self._threads.map(self._read, *(column.tolist() for column in columns[:2]), parts))
        return out, offsets

    def _read(self, shard: int, start: int, out: Array) -> None:
        at = self._first[shard] + start * self._columns * self._dtype.itemsize
        if os.preadv(self._files[shard].fileno(), [as_part(out)], at) != out.nbytes:
            raise OSError(f"{self._files[shard].name}: ends too early")


def places(path: Path, ids: Sequence[str]) -> tuple[Array, Array, Array, list[str]]:
    """Where clips lie: number of the shard, first row and the row after the last of each clip; and the shards' ids."""
    rows = FeatureSet.open(path).rows()
    shards = sorted(set(rows["shard"].to_pylist()))
    number = {shard: at for at, shard in enumerate(shards)}
    columns = (rows[name].to_pylist() for name in ("clip_id", "shard", "offset", "length"))
    found = {clip_id: (number[shard], at, at + steps) for clip_id, shard, at, steps in zip(*columns, strict=True)}
    shard, start, stop = np.array([found[clip_id] for clip_id in ids], np.int64).T
    return shard, start, stop, shards


def check_same(readers: dict[str, Reader], rows: Array, corpus: Corpus) -> None:
    """Every reader gives what was written, before any is timed.

    Raises
    ------
    AssertionError
        Names the one that does not.
    """
    expected = np.concatenate([corpus.clip(row) for row in rows.tolist()])
    for name, reader in readers.items():
        values, offsets = reader.read(rows)
        right = np.array_equal(np.asarray(values), expected) and np.array_equal(np.diff(offsets), corpus.lengths[rows])
        if not right:
            raise AssertionError(f"{name} does not read what was written: its time would mean nothing")


def _packed(clips: list[Array]) -> tuple[Array, Array]:
    offsets = np.zeros(len(clips) + 1, np.int64)
    np.cumsum([len(clip) for clip in clips], out=offsets[1:])
    return np.concatenate(clips), offsets
