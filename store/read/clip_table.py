"""Clips of a feature set and their places: the part of the index files that reading needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from supportset.store.files import Folder
from supportset.store.format.index import SCHEMA, ShardIndex, Vanished, effective, has_features, read_all, read_index
from supportset.store.format.shard import Array
from supportset.store.format.status import OK

_ANY = 1 << 61  # steps of an archive, which are known once it is unpacked
_NUMBERS = ("shard", "offset", "length", "checksum", "timestamps_checksum")


@dataclass(frozen=True)
class ClipTable:
    """The N clips that have features, in the order on disk.

    Attributes
    ----------
    indexes : list of ShardIndex
        Indexes of the shards that count, sorted by id.
    ids : pyarrow.Array
        (N,) strings.
    shard : (N,) int64
        Number of each clip's shard among the indexes.
    offset : (N,) int64
        Its first row in the shard.
    length : (N,) int64
        Its rows.
    checksum : (N,) uint64
        xxh3-64 of its values.
    timestamps_checksum : (N,) uint64
        xxh3-64 of its timestamps.
    statuses : dict
        Number of clips by status, failures included, ``ok`` first.
    rows : pyarrow.Table or None
        One row a clip, failures included, as from :func:`effective_rows`; None if they were not read.
    """

    indexes: list[ShardIndex]
    ids: pa.Array
    shard: Array
    offset: Array
    length: Array
    checksum: Array
    timestamps_checksum: Array
    statuses: dict[str, int]
    rows: pa.Table | None = None

    @classmethod
    def read(cls, shards: Folder) -> ClipTable:
        """Read all index files.

        Raises
        ------
        SupportsetError
            A file is damaged, or of a newer format version.
        """
        indexes, tables = read_all(shards)
        rows = effective_rows(tables)
        found = rows.filter(has_features(rows)).rename_columns({"shard_rank": "shard"})
        numbers = {name: found[name].to_numpy() for name in _NUMBERS}
        return cls(indexes, found["clip_id"].combine_chunks(), **numbers, statuses=_count(rows["status"]), rows=rows)

    def to_arrow(self) -> pa.Table:
        """Return the columns without :attr:`rows`."""
        return pa.table({"clip_id": self.ids} | {name: getattr(self, name) for name in _NUMBERS})

    @classmethod
    def from_arrow(cls, table: pa.Table, indexes: list[ShardIndex], statuses: dict[str, int]) -> ClipTable:
        """Inverse of :meth:`to_arrow`; a contiguous column is not copied."""
        numbers = {name: table[name].to_numpy() for name in _NUMBERS}
        return cls(indexes, table["clip_id"].combine_chunks(), **numbers, statuses=statuses)

    def __post_init__(self) -> None:
        """Raise ValueError for places outside of the shards: a cache may come from another machine."""
        if not len(self):
            return
        arrays = [[index.arrays[name] for name in ("values", "timestamps") if index.arrays] for index in self.indexes]
        steps = np.array([min((place.shape[0] for place in pair), default=_ANY) for pair in arrays], np.int64)
        within = len(self.indexes) and self.shard.min() >= 0 and self.shard.max() < len(self.indexes)
        if not within or self.offset.min() < 0 or self.length.min() < 1:
            raise ValueError("a clip is in no shard")
        if (self.length > steps[self.shard] - self.offset).any():
            raise ValueError("a clip ends beyond its shard")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def clip_ids(self) -> list[str]:
        """The ids as Python strings."""
        return self.ids.to_pylist()

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Number of each clip by its id."""
        return dict(zip(self.clip_ids, range(len(self)), strict=True))

    def find(self, clip_ids: Iterable[str]) -> Array:
        """Return the numbers of clips, (M,) int64.

        Raises
        ------
        KeyError
            A clip has no features.
        """
        return np.array(list(map(self.number_of.__getitem__, clip_ids)), dtype=np.int64)

    def read_rows(self, shards: Folder) -> tuple[pa.Table, list[ShardIndex]]:
        """Return one row a clip, failures included, and the shards that ``shard_rank`` numbers.

        The index files are read if they were not. If a compaction replaced one meanwhile, all current ones are read.
        """
        if self.rows is not None:
            return self.rows, self.indexes
        try:
            return effective_rows([read_index(shards, index.shard)[1] for index in self.indexes]), self.indexes
        except Vanished:
            return ClipTable.read(shards).read_rows(shards)


def effective_rows(tables: list[pa.Table]) -> pa.Table:
    """Return the rows that count, with ``shard_rank``, the number of their table; the tables are sorted by shard id."""
    rank = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    table = table.append_column("shard_rank", pa.array(rank, pa.int64()))
    return table.take(effective(table, rank))


def _count(statuses: pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(statuses.combine_chunks()).to_pylist()
    return {
        item["values"]: item["counts"]
        for item in sorted(counts, key=lambda item: (item["values"] != OK, item["values"]))
    }
