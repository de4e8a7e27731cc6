"""Reading of features: clips by id, in the requested order.

Shard files are mapped into one range of addresses, so that a batch is one indexed copy without zarr or h5py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import StorePath, as_part, disk_reads, open_folder, store_path
from supportset.store.files.memory import empty_aligned
from supportset.store.format.card import FeatureCard, Recipe, load_card
from supportset.store.format.index import has_features, index_name
from supportset.store.format.shard import Array
from supportset.store.read.clip_table import ClipTable
from supportset.store.read.index_cache import open_clip_table
from supportset.store.read.mapped_shards import MappedShards

_ARRAYS = ("values", "timestamps")
_RELOCATING = threading.Lock()  # shared by all sets: rarely needed, and a lock in each set could not be pickled


class FeatureSet:
    """Features of one dataset by one recipe, as committed when the set was opened.

    If a compaction or a conversion moves clips meanwhile, they are found in their new place.

    Attributes
    ----------
    path : str or StorePath
        Folder of the feature set.
    card : FeatureCard
    dim : int
        D, numbers a step.
    dtype : numpy.dtype
        Dtype of the values.
    check : bool, default False
        Whether each clip is compared with its checksum when this object reads it for the first time.
    """

    def __init__(self, path: str | StorePath, card: FeatureCard, clips: ClipTable, check: bool = True) -> None:
        self.path = store_path(path)
        self.card = card
        self.dim = card.recipe.dim
        self.dtype = np.dtype(card.recipe.dtype)
        self.check = check
        self._folder = open_folder(path).child("shards")
        self._clips = clips
        self._indexes = clips.indexes
        self._rows = clips.rows
        # (N, 3) int64: number of each clip's shard, its first row there, and the row after its last. One array,
        # because clips are read at random; never changed in place, see _relocate.
        self._places = np.stack([clips.shard, clips.offset, clips.offset + clips.length], axis=1)
        self._length = clips.length
        self._mapped = self._nothing_mapped()
        self._needed: tuple[Array, Array] | None = None
        self._unchecked = {name: np.ones(len(clips), bool) for name in _ARRAYS}

    @classmethod
    def open(cls, path: str | StorePath, recipe: Recipe | None = None, *, check: bool = True) -> FeatureSet:
        """Open a feature set.

        Parameters
        ----------
        path : str or StorePath
            Folder of the feature set.
        recipe : Recipe, optional
            Recipe that the set must have.
        check : bool, default False
            Compare each clip with its checksum when it is read for the first time, at about two thirds of the speed.
            Later reads are not compared.

        Raises
        ------
        UsageError
            The folder has no card, or one of another recipe.
        SupportsetError
            The card or an index file is damaged, or of a newer version.
        """
        folder = open_folder(path)
        card = load_card(folder)
        if recipe is not None and card.recipe != recipe:
            fields = ", ".join(card.recipe.differences(recipe))
            raise UsageError(f"{path}: has another recipe than requested (different: {fields}): extract it anew")
        shards = folder.child("shards")
        clips = open_clip_table(folder, shards)
        for index in clips.indexes:
            if index.recipe_hash != card.recipe.hash:
                raise SupportsetError(
                    f"{shards}/{index_name(index.shard)}: belongs to the recipe {index.recipe_hash}, the card is of "
                    f"{card.recipe.hash}: move the shard to the feature set it came from"
                )
        return cls(path, card, clips, check)

    @property
    def clip_ids(self) -> list[str]:
        """Ids of the clips that have features, in the order on disk."""
        return self._clips.clip_ids

    def __len__(self) -> int:
        """Number of clips that have features."""
        return len(self._clips)

    def __contains__(self, clip_id: object) -> bool:
        """Whether a clip has features."""
        return clip_id in self._clips.number_of

    def __repr__(self) -> str:
        return f"FeatureSet({str(self.path)!r}, {len(self)} clips of {self.dim} x {self.dtype})"

    def __getstate__(self) -> dict[str, Any]:
        # Mappings cannot be pickled; another process makes its own.
        return {**self.__dict__, "_mapped": self._nothing_mapped()}

    def find(self, clip_ids: Iterable[str]) -> Array:
        """Look up the rows of clips, for :meth:`read_rows`.

        Returns
        -------
        (N,) int64

        Raises
        ------
        SupportsetError
            A clip has no features; the message names it and its status.
        """
        if isinstance(clip_ids, str):
            raise UsageError(f"{self.path}: clip ids must be a list, not the string {clip_ids!r}: write [{clip_ids!r}]")
        clip_ids = list(clip_ids)
        try:
            return self._clips.find(clip_ids)
        except KeyError:
            raise self._absent([clip_id for clip_id in clip_ids if clip_id not in self]) from None

    def lengths(self, clip_ids: Iterable[str]) -> Array:
        """Return the number of steps of each clip, (N,) int64."""
        return self.lengths_of(self.find(clip_ids))

    def checksums(self, clip_ids: Iterable[str], name: Literal["values", "timestamps"] = "values") -> Array:
        """Return the stored checksum of each clip's values or timestamps, (N,) uint64 (xxh3-64)."""
        stated = self._clips.checksum if name == "values" else self._clips.timestamps_checksum
        return stated[self.find(clip_ids)]

    def lengths_of(self, rows: Array) -> Array:
        """Like :meth:`lengths`, for rows that :meth:`find` returned."""
        return self._length[rows]

    def read(self, clip_ids: Iterable[str]) -> tuple[Array, Array]:
        """Copy the features of clips, in the requested order.

        Returns
        -------
        values : (ΣT, D)
            In the stored dtype.
        offsets : (N + 1,) int64
            Clip ``i`` has the rows ``offsets[i]:offsets[i + 1]``.

        Raises
        ------
        SupportsetError
            A clip has no features, or its features are not those that were written.
        """
        return self.read_rows(self.find(clip_ids))

    def read_timestamps(self, clip_ids: Iterable[str]) -> Array:
        """Copy the timestamps of clips: (ΣT, 2) float64 seconds, start and end of each step."""
        return self.read_row_timestamps(self.find(clip_ids))[0]

    def read_rows(self, rows: Array, out: Array | None = None) -> tuple[Array, Array]:
        """Like :meth:`read`, for rows that :meth:`find` returned.

        Parameters
        ----------
        rows : (N,) int64
        out : (at least ΣT, D) array, optional
            To copy into; what is returned views it.
        """
        return self._gather("values", rows, out)

    def read_row_timestamps(self, rows: Array) -> tuple[Array, Array]:
        """Return timestamps, (ΣT, 2) float64 seconds, and offsets, (N + 1,), of rows that :meth:`find` returned."""
        return self._gather("timestamps", rows, None)

    def rows(self) -> pa.Table:
        """Return one row a clip, failures included.

        Returns
        -------
        pyarrow.Table
            ``clip_id``, ``status``, ``message``, ``offset``, ``length``, ``checksum``, ``timestamps_checksum``,
            ``source_path``, ``source_size``, ``source_mtime_ns``, ``source_hash``, ``seconds``, ``generation``,
            and ``shard``, the id of the shard that holds it.
        """
        rows, indexes = (self._rows, self._indexes) if self._rows is not None else self._clips.read_rows(self._folder)
        ids = pa.array([index.shard for index in indexes], pa.string())
        return rows.drop_columns("shard_rank").append_column("shard", ids.take(rows["shard_rank"]))

    def statuses(self) -> dict[str, int]:
        """Return the number of clips by status, ``ok`` first."""
        return self._clips.statuses

    def scan(self) -> Iterator[tuple[str, Array, Array]]:
        """Iterate over all clips in the order on disk.

        Yields
        ------
        clip_id : str
        values : (T, D)
            A read-only view on the mapped file.
        timestamps : (T, 2) float64 seconds
            A read-only view.
        """
        ids = self.clip_ids
        reader = copy(self)
        bounds = np.flatnonzero(np.diff(self._clips.shard, prepend=-1, append=-1))  # one shard at a time
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            rows = np.arange(first, last)
            reader._mapped = reader._nothing_mapped(separate=True)  # so that the memory of each shard is freed after it
            parts = []
            for name in _ARRAYS:
                places, mapped = reader._located(name, rows)
                mapped.await_bytes(places)  # new mappings do not know what is in memory
                parts.append(mapped.slices(places))
                if self.check:
                    self._compare(rows, parts[-1], name)
            yield from zip(ids[first:last], *parts, strict=True)

    def prefetch(self, rows: Array) -> None:
        """Request clips that will be read soon, and return at once. Does nothing if they are in memory.

        Parameters
        ----------
        rows : (N,) int64
            Rows that :meth:`find` returned, such as those of the next batch.
        """
        places, mapped = self._located("values", rows)
        if mapped.cold:
            mapped.ask_ahead(places)

    def _gather(self, name: str, rows: Array, out: Array | None) -> tuple[Array, Array]:
        places, mapped = self._located(name, rows)
        mapped.await_bytes(places)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(places[:, 2] - places[:, 1], out=offsets[1:])
        steps = int(offsets[-1])
        out = empty_aligned((steps, mapped.columns), mapped.dtype) if out is None else out[:steps]
        began, reads = time.perf_counter(), disk_reads()
        mapped.copy(places, offsets, out)
        mapped.copied(len(rows), steps, time.perf_counter() - began, disk_reads() - reads)
        if self.check and (new := self._unchecked[name][rows]).any():
            self._compare(rows[new], mapped.slices(places[new]), name)
        return out, offsets

    def _compare(self, rows: Array, copies: list[Array], name: str) -> None:
        """Compare clips with their checksums, and remember that; SupportsetError if one differs."""
        stated = self._clips.checksum if name == "values" else self._clips.timestamps_checksum
        found = (xxhash.xxh3_64_intdigest(as_part(copy)) for copy in copies)
        pairs = zip(rows.tolist(), found, stated[rows].tolist(), strict=True)
        if wrong := [row for row, digest, expected in pairs if digest != expected]:
            first = self.clip_ids[wrong[0]]
            shard = self._indexes[int(self._places[wrong[0], 0])].shard
            raise SupportsetError(
                f"{self._folder}/{shard}: the {name} of {len(wrong)} clips ({first!r}{', ...' if wrong[1:] else ''}) "
                "are not what was written: `store verify --drop-damaged`, then the same `extract` again"
            )
        self._unchecked[name][rows] = False

    def _nothing_mapped(self, *, separate: bool = False) -> dict[str, MappedShards]:
        kinds: dict[str, tuple[np.dtype[Any], int]]
        kinds = {"values": (self.dtype, self.dim), "timestamps": (np.dtype(np.float64), 2)}
        return {
            name: MappedShards(self._folder, self._indexes, name, *kind, separate=separate)
            for name, kind in kinds.items()
        }

    def _located(self, name: str, rows: Array) -> tuple[Array, MappedShards]:
        """Places of clips, (N, 3) int64 as in ``_places``, and the shards, with these clips' mapped."""
        while True:
            all_places = self._places
            places, mapped = all_places.take(rows, axis=0), self._mapped[name]
            try:
                mapped.map(places[:, 0], self._steps_needed())
            except SupportsetError:
                with _RELOCATING:
                    if self._places is all_places and not self._relocate(rows):
                        raise
            else:
                return places, mapped

    def _relocate(self, asked: Array) -> bool:
        """Find clips whose shards were replaced and removed; return False if none of the requested ones is affected.

        Raises
        ------
        SupportsetError
            A requested clip has other features now, or none.
        """
        places = self._places.copy()
        shards = places[:, 0]
        gone = [
            shard
            for shard in np.unique(shards).tolist()
            if self._folder.size(index_name(self._indexes[shard].shard)) is None
        ]
        rows = np.flatnonzero(np.isin(shards, gone))
        if not np.isin(asked, rows).any():
            return False
        now = FeatureSet.open(self.path, self.card.recipe)
        there = np.array([now._clips.number_of.get(self.clip_ids[row], -1) for row in rows], np.int64)
        same = there >= 0
        for column in ("checksum", "timestamps_checksum", "length"):
            before, after = (getattr(feature_set._clips, column) for feature_set in (self, now))
            same[same] &= before[rows[same]] == after[there[same]]
        if len(lost := np.intersect1d(asked, rows[~same])):
            raise SupportsetError(
                f"{self.path}: {len(lost):,} clips have other features, or none, since the set was opened "
                f"({self.clip_ids[lost[0]]!r}{', ...' if len(lost) > 1 else ''}): open the set again"
            )
        rows, there = rows[same], there[same]
        places[rows] = now._places[there] + [len(self._indexes), 0, 0]
        # Another thread may be reading: shard numbers do not change, and the places are replaced last.
        self._mapped = {name: mapped.extend(now._indexes) for name, mapped in self._mapped.items()}
        self._indexes = [*self._indexes, *now._indexes]
        if self._rows is not None:
            self._rows = _with_places(self._rows, places)
        self._places = places
        for unchecked in self._unchecked.values():  # they are in other files now
            unchecked[rows] = True
        return True

    def _steps_needed(self) -> Array:
        """Number of rows that each shard's arrays must have."""
        places, cached = self._places, self._needed
        if cached is None or cached[0] is not places:
            needed = np.zeros(len(self._indexes), np.int64)
            np.maximum.at(needed, places[:, 0], places[:, 2])
            cached = self._needed = places, needed
        return cached[1]

    def _absent(self, clip_ids: Sequence[str]) -> SupportsetError:
        rows = self.rows()
        failed = rows.filter(pc.is_in(rows["clip_id"], pa.array(clip_ids[:3], pa.string())))
        status = dict(zip(failed["clip_id"].to_pylist(), failed["status"].to_pylist(), strict=True))
        clips = ", ".join(f"{clip_id!r} ({status.get(clip_id, 'never extracted')})" for clip_id in clip_ids[:3])
        more = f" and {len(clip_ids) - 3} more" if len(clip_ids) > 3 else ""
        count = f"{len(clip_ids)} clip{'s' if len(clip_ids) > 1 else ''}"
        return SupportsetError(
            f"{self.path}: no features of {count}: {clips}{more}; run `extract` for this dataset again"
        )


def _with_places(rows: pa.Table, places: Array) -> pa.Table:
    """The rows, with new shards and offsets of the clips that have features."""
    found = has_features(rows).to_numpy()
    for number, column in enumerate(("shard_rank", "offset")):
        numbers = pc.fill_null(rows[column], 0).to_numpy().copy()
        numbers[found] = places[:, number]
        mask = ~found if column == "offset" else None
        at = rows.column_names.index(column)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(numbers, mask=mask))
    return rows
