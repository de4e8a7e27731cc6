"""Reading features: clips by id, in the order asked, at the speed of memory.

Shard files are mapped, and slices of plain arrays are copied out of them; no call goes through zarr or h5py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.card import FeatureCard, Recipe, load_card
from store.errors import SupportsetError, UsageError
from store.files import open_folder
from store.index import OK, SCHEMA, ShardIndex, effective, index_name, read_all
from store.shard import Array, shard_format

_RELOCATING = threading.Lock()  # of all sets: it happens rarely, and a lock of each would not travel to other processes


class FeatureSet:
    """The features of one dataset by one recipe, as committed when it was opened.

    It keeps to what it saw: clips that a compaction or a conversion moves meanwhile are found in their new place.

    Attributes
    ----------
    path : the feature set's folder
    card : its card
    dim : D, numbers a step
    dtype : of the values
    """

    def __init__(self, path: str | Path, card: FeatureCard, indexes: list[ShardIndex], tables: list[pa.Table]) -> None:
        self.path = Path(path)
        self.card = card
        self.dim = card.recipe.dim
        self.dtype = np.dtype(card.recipe.dtype)
        self._folder = open_folder(path).child("shards")
        self._indexes = indexes
        self._rows = _effective_rows(tables)
        ok = self._rows.filter(pc.equal(self._rows["status"], OK))
        self._ids = ok["clip_id"].combine_chunks()
        # Of each clip, the number of its shard and its first row there. One tuple, replaced as a whole: see _relocate.
        self._places: tuple[Array, Array] = ok["shard_rank"].to_numpy(), ok["offset"].to_numpy()
        self._length = ok["length"].to_numpy()
        self._views = self._no_views()
        self._needed: tuple[tuple[Array, Array], Array] | None = None

    @classmethod
    def open(cls, path: str | Path, recipe: Recipe | None = None) -> FeatureSet:
        """Open the feature set in a folder.

        Parameters
        ----------
        path : the feature set's folder
        recipe : where given, the set must be of exactly this recipe

        Raises
        ------
        UsageError
            No card is there, or one of another recipe than the one asked for.
        SupportsetError
            A damaged card, or one of a newer version; an index file that is damaged.
        """
        folder = open_folder(path)
        card = load_card(folder)
        if recipe is not None and card.recipe != recipe:
            fields = ", ".join(card.recipe.differences(recipe))
            raise UsageError(f"{path}: is of another recipe than asked for (differs in {fields}): extract it anew")
        shards = folder.child("shards")
        indexes, tables = read_all(shards)
        for index in indexes:
            if index.recipe_hash != card.recipe.hash:
                raise SupportsetError(
                    f"{shards}/{index_name(index.shard)}: belongs to the recipe {index.recipe_hash}, the card is of "
                    f"{card.recipe.hash}: move the shard to the feature set it came from"
                )
        return cls(path, card, indexes, tables)

    @cached_property
    def clip_ids(self) -> list[str]:
        """Ids of the clips that have features, in the order in which they lie on disk."""
        return self._ids.to_pylist()

    def __len__(self) -> int:
        """Number of clips that have features."""
        return len(self._ids)

    def __contains__(self, clip_id: object) -> bool:
        """Whether a clip has features."""
        return clip_id in self._row_of

    def __repr__(self) -> str:
        return f"FeatureSet({str(self.path)!r}, {len(self)} clips of {self.dim} x {self.dtype})"

    def __getstate__(self) -> dict[str, Any]:
        # Maps do not travel to another process; they are made again there.
        return {**self.__dict__, "_views": self._no_views()}

    def find(self, clip_ids: Iterable[str]) -> Array:
        """Rows of clips, for :meth:`read_rows`: look ids up once, read many times.

        Returns
        -------
        (N,) int64

        Raises
        ------
        SupportsetError
            One line that names the clips that have no features, and what is known of them.
        """
        clip_ids = list(clip_ids)
        row_of = self._row_of
        try:
            return np.array(list(map(row_of.__getitem__, clip_ids)), dtype=np.int64)
        except KeyError:
            raise self._absent([clip_id for clip_id in clip_ids if clip_id not in row_of]) from None

    def lengths(self, clip_ids: Iterable[str]) -> Array:
        """Number of steps of each clip: (N,) int64, in the order asked."""
        return self._length[self.find(clip_ids)]

    def read(self, clip_ids: Iterable[str]) -> tuple[Array, Array]:
        """Copy the features of clips, in the order asked.

        Returns
        -------
        values : (ΣT, D) in the stored dtype
        offsets : (N + 1,) int64: clip ``i`` has the rows ``offsets[i]:offsets[i + 1]``

        Raises
        ------
        SupportsetError
            A clip without features, or a shard file that is gone or has another size than its index says.
        """
        return self.read_rows(self.find(clip_ids))

    def read_timestamps(self, clip_ids: Iterable[str]) -> Array:
        """Copy the timestamps of clips, in the order asked: (ΣT, 2) float64 seconds, start and end of each step."""
        rows = self.find(clip_ids)
        offsets = self._offsets(rows)
        return self._gather("timestamps", rows, offsets, np.empty((offsets[-1], 2), np.float64))

    def read_rows(self, rows: Array, out: Array | None = None) -> tuple[Array, Array]:
        """Like :meth:`read`, for rows that :meth:`find` gave.

        Parameters
        ----------
        rows : (N,) int64
        out : (at least ΣT, D) array to copy into; what is returned views it
        """
        offsets = self._offsets(rows)
        if out is None:
            out = np.empty((offsets[-1], self.dim), self.dtype)
        return self._gather("values", rows, offsets, out[: offsets[-1]]), offsets

    def rows(self) -> pa.Table:
        """One row a clip, failures included: what the index says, by the rule of precedence.

        Returns
        -------
        pyarrow.Table
            ``clip_id``, ``status``, ``message``, ``offset``, ``length``, ``checksum``, ``timestamps_checksum``,
            ``source_path``, ``source_size``, ``source_mtime_ns``, ``source_hash``, ``seconds``, ``generation``,
            and ``shard``, the id of the shard that holds it.
        """
        ids = pa.array([index.shard for index in self._indexes], pa.string())
        return self._rows.drop_columns("shard_rank").append_column("shard", ids.take(self._rows["shard_rank"]))

    def statuses(self) -> dict[str, int]:
        """Number of clips by status, ``ok`` first."""
        counts = pc.value_counts(self._rows["status"].combine_chunks()).to_pylist()
        return {
            item["values"]: item["counts"]
            for item in sorted(counts, key=lambda item: (item["values"] != OK, item["values"]))
        }

    def scan(self) -> Iterator[tuple[str, Array, Array]]:
        """Go through everything in the order on disk.

        Yields
        ------
        clip_id : str
        values : (T, D) a read-only view on the mapped file
        timestamps : (T, 2) float64 seconds, a read-only view
        """
        for row, clip_id in enumerate(self.clip_ids):
            arrays = []
            for name in ("values", "timestamps"):
                (shard,), (start,), views = self._located(name, np.array([row]))
                arrays.append(views[shard][start : start + self._length[row]])
            yield clip_id, arrays[0], arrays[1]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {clip_id: row for row, clip_id in enumerate(self.clip_ids)}

    def _offsets(self, rows: Array) -> Array:
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self._length[rows], out=offsets[1:])
        return offsets

    def _gather(self, name: str, rows: Array, offsets: Array, out: Array) -> Array:
        shards, starts, views = self._located(name, rows)
        stops = starts + self._length[rows]
        bounds = offsets.tolist()
        # The loop that decides the speed: one slice copy a clip, nothing else.
        for shard, start, stop, low, high in zip(
            shards, starts.tolist(), stops.tolist(), bounds[:-1], bounds[1:], strict=True
        ):
            out[low:high] = views[shard][start:stop]
        return out

    def _no_views(self) -> dict[str, list[Any]]:
        return {name: [None] * len(self._indexes) for name in ("values", "timestamps")}

    def _located(self, name: str, rows: Array) -> tuple[list[int], Array, list[Any]]:
        """The shard and the first row in it of each clip, and views on one array of those shards."""
        while True:
            places = self._places
            shards = places[0][rows].tolist()
            views = self._views[name]
            try:
                for shard in set(shards):
                    if views[shard] is None:
                        views[shard] = self._map(name, shard)
            except SupportsetError:
                with _RELOCATING:
                    if self._places is places and not self._relocate(rows):
                        raise
            else:
                return shards, places[1][rows], views

    def _relocate(self, asked: Array) -> bool:
        """Find clips again whose shards were replaced and removed since; False where that befell none of those asked.

        Raises
        ------
        SupportsetError
            The features of a clip that was asked for are not the same any more, or gone.
        """
        shards, starts = (part.copy() for part in self._places)
        gone = [
            shard
            for shard in np.unique(shards).tolist()
            if self._folder.size(index_name(self._indexes[shard].shard)) is None
        ]
        rows = np.flatnonzero(np.isin(shards, gone))
        if not np.isin(asked, rows).any():
            return False
        now = FeatureSet.open(self.path, self.card.recipe)
        there = np.array([now._row_of.get(self.clip_ids[row], -1) for row in rows], np.int64)
        same = there >= 0
        for column in ("checksum", "timestamps_checksum", "length"):
            before, after = (_of_ok(feature_set, column) for feature_set in (self, now))
            same[same] &= before[rows[same]] == after[there[same]]
        if len(lost := np.intersect1d(asked, rows[~same])):
            raise SupportsetError(
                f"{self.path}: {len(lost):,} clips have other features, or none, since the set was opened "
                f"({self.clip_ids[lost[0]]!r}{', ...' if len(lost) > 1 else ''}): open the set again"
            )
        rows, there = rows[same], there[same]
        shards[rows] = now._places[0][there] + len(self._indexes)
        starts[rows] = now._places[1][there]
        # Another thread may be reading: numbers of shards stay what they are, and the places come last.
        self._indexes = [*self._indexes, *now._indexes]
        self._views = {name: views + [None] * len(now._indexes) for name, views in self._views.items()}
        self._rows = _with_places(self._rows, shards, starts)
        self._places = shards, starts
        return True

    def _map(self, name: str, shard: int) -> Array:
        index = self._indexes[shard]
        mend = f"restore it, or delete {index_name(index.shard)} to have its clips extracted again"
        location = index.arrays.get(name)
        for file in index.files if location is None else [index.file(location.file)]:
            size = self._folder.size(file.name)
            if size is None:
                raise SupportsetError(f"{self._folder}/{file.name}: the shard file is gone: {mend}")
            if size != file.size:
                raise SupportsetError(
                    f"{self._folder}/{file.name}: the shard file has {size} bytes, its index says {file.size}: {mend}"
                )
        if location is None:  # an archive, compressed: unpacked into memory as a whole
            array = shard_format(index.shard_format).decode(self._folder, index.shard, name)
        else:
            if location.offset + location.nbytes > index.file(location.file).size:
                raise SupportsetError(f"{self._folder}/{location.file}: shorter than its index says {name} are: {mend}")
            array = location.view(self._folder.map(location.file).content)
        steps = self._steps_needed(shard)
        dtype, columns = {"values": (self.dtype, self.dim), "timestamps": (np.dtype(np.float64), 2)}[name]
        if array.dtype != dtype or array.shape[1:] != (columns,) or len(array) < steps:
            raise SupportsetError(
                f"{self._folder}/{index_name(index.shard)}: its {name} are {array.dtype} {array.shape}, needed are "
                f"{dtype} ({steps}, {columns}): {mend}"
            )
        return array

    def _steps_needed(self, shard: int) -> int:
        """Number of rows that a shard's arrays must have at least."""
        places, cached = self._places, self._needed
        if cached is None or cached[0] is not places:
            needed = np.zeros(len(self._indexes), np.int64)
            np.maximum.at(needed, places[0], places[1] + self._length)
            cached = self._needed = places, needed
        return int(cached[1][shard])

    def _absent(self, clip_ids: Sequence[str]) -> SupportsetError:
        failed = self._rows.filter(pc.is_in(self._rows["clip_id"], pa.array(clip_ids[:3], pa.string())))
        status = dict(zip(failed["clip_id"].to_pylist(), failed["status"].to_pylist(), strict=True))
        told = ", ".join(f"{clip_id!r} ({status.get(clip_id, 'never extracted')})" for clip_id in clip_ids[:3])
        more = f" and {len(clip_ids) - 3} more" if len(clip_ids) > 3 else ""
        count = f"{len(clip_ids)} clip{'s' if len(clip_ids) > 1 else ''}"
        return SupportsetError(
            f"{self.path}: no features of {count}: {told}{more}; run `extract` for this dataset again"
        )


def _effective_rows(tables: list[pa.Table]) -> pa.Table:
    """The rows that count, with the rank of their shard among the indexes, which are sorted by shard id."""
    rank = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    table = table.append_column("shard_rank", pa.array(rank, pa.int64()))
    return table.take(effective(table, rank))


def _of_ok(feature_set: FeatureSet, column: str) -> Array:
    """A column of numbers of the clips that have features."""
    rows = feature_set._rows
    return rows.filter(pc.equal(rows["status"], OK))[column].to_numpy()


def _with_places(rows: pa.Table, shards: Array, starts: Array) -> pa.Table:
    """The rows with other shards and offsets for the clips that have features."""
    ok = pc.equal(rows["status"], OK).to_numpy()
    for column, places in (("shard_rank", shards), ("offset", starts)):
        numbers = pc.fill_null(rows[column], 0).to_numpy().copy()
        numbers[ok] = places
        mask = ~ok if column == "offset" else None
        at = rows.column_names.index(column)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(numbers, mask=mask))
    return rows
