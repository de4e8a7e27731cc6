"""Which clips a feature set has, and where: what the index files say, as far as reading needs it."""

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

_NUMBERS = ("shard", "offset", "length", "checksum", "timestamps_checksum")


@dataclass(frozen=True)
class ClipTable:
    """The clips that have features, N of them, in the order in which they lie on disk.

    Attributes
    ----------
    indexes : of the shards that count, sorted by id
    ids : (N,) strings
    shard : (N,) int64, number of each clip's shard among the indexes
    offset : (N,) int64, its first row in the shard
    length : (N,) int64, its rows
    checksum, timestamps_checksum : (N,) uint64, xxh3-64 of its values and of its timestamps
    statuses : number of clips by status, failures included, ``ok`` first
    rows : one row a clip, failures included, as :func:`effective_rows` gives them; None where they were not read
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
        """Read it from the index files, all of them.

        Raises
        ------
        SupportsetError
            One is damaged, or of a newer format version.
        """
        indexes, tables = read_all(shards)
        rows = effective_rows(tables)
        found = rows.filter(has_features(rows)).rename_columns({"shard_rank": "shard"})
        numbers = {name: found[name].to_numpy() for name in _NUMBERS}
        return cls(indexes, found["clip_id"].combine_chunks(), **numbers, statuses=_count(rows["status"]), rows=rows)

    def to_arrow(self) -> pa.Table:
        """The columns, rows apart."""
        return pa.table({"clip_id": self.ids} | {name: getattr(self, name) for name in _NUMBERS})

    @classmethod
    def from_arrow(cls, table: pa.Table, indexes: list[ShardIndex], statuses: dict[str, int]) -> ClipTable:
        """Read what :meth:`to_arrow` gave, without a copy where it is in one piece."""
        numbers = {name: table[name].to_numpy() for name in _NUMBERS}
        return cls(indexes, table["clip_id"].combine_chunks(), **numbers, statuses=statuses)

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
        """Numbers of clips: (M,) int64.

        Raises
        ------
        KeyError
            A clip without features.
        """
        return np.array(list(map(self.number_of.__getitem__, clip_ids)), dtype=np.int64)

    def read_rows(self, shards: Folder) -> tuple[pa.Table, list[ShardIndex]]:
        """One row a clip, failures included, and the shards that its ``shard_rank`` counts.

        Where they were not read before, they are read now from the index files; where one of these is gone by now,
        replaced by a compaction, all that there are now are read.
        """
        if self.rows is not None:
            return self.rows, self.indexes
        try:
            return effective_rows([read_index(shards, index.shard)[1] for index in self.indexes]), self.indexes
        except Vanished:
            return ClipTable.read(shards).read_rows(shards)


def effective_rows(tables: list[pa.Table]) -> pa.Table:
    """The rows that count, with ``shard_rank``, the number of their shard among the tables, sorted by shard id."""
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
