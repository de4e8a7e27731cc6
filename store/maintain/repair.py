"""Repair of damaged shards: intact clips are kept, damaged ones are dropped, to be extracted again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from dataclasses import replace as changed
from graphlib import CycleError, TopologicalSorter

import numpy as np
import pyarrow as pa

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, StorePath, fetched, open_folder
from supportset.store.format.index import (
    DamagedIndex,
    ShardIndex,
    Vanished,
    effective,
    index_name,
    read_all,
    read_index,
)
from supportset.store.format.manifest import Entry, entry_name, put_entry
from supportset.store.format.registry import shard_format, shard_suffixes
from supportset.store.format.shard import Array, Location
from supportset.store.maintain.orphans import SHARDS, find_orphans
from supportset.store.write.replacement import (
    commit,
    intact,
    merged_provenance,
    place,
    remove_replaced,
    remove_shard,
    repack,
    still_replaced,
)


def drop_damaged(path: str | StorePath, shards: Collection[str]) -> list[str]:
    """Rewrite damaged shards without their damaged clips; drop shards whose index is missing or damaged.

    A dropped clip has no row afterwards, not even an older one. So the same `extract` command extracts it again.

    Parameters
    ----------
    path : str or StorePath
        The feature set's folder.
    shards : collection of str
        Ids of the damaged shards that `verify` found.

    Returns
    -------
    list of str
        Ids of the dropped clips, sorted.

    Raises
    ------
    SupportsetError
        A file cannot be read or written, or an index file is damaged.
    """
    folder = open_folder(path).child(SHARDS)
    without_index = {each.shard for each in find_orphans(path) if each.kind == "lost"}
    for shard in shards:
        if shard in without_index or _has_damaged_index(folder, shard):
            _remove_unreadable(folder, shard)
    indexes, tables = read_all(folder, allow_lost=True)
    rank = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    counts = np.zeros(len(rank), bool)
    if tables:
        counts[effective(pa.concat_tables(tables), rank)] = True
    parts: list[_Part] = []
    lost: set[str] = set()
    for at, (index, rows) in enumerate(zip(indexes, tables, strict=True)):
        whole = read_intact(folder, index, rows)[0] if index.shard in shards else np.ones(len(rows), bool)
        parts.append(_Part(index, rows, counts[rank == at], whole))
        lost |= set(rows.filter(pa.array(~whole & parts[-1].counts))["clip_id"].to_pylist())
    for part in parts:
        part.keep &= ~np.array([clip_id in lost for clip_id in part.clips], bool)
    for group in _in_order([part for part in parts if part.index.shard in shards or not part.keep.all()], lost):
        _write_without(folder, group)
    remove_replaced(folder)
    return sorted(lost)


@dataclass
class _Part:
    """A shard that counts: which of its rows count, and which are kept."""

    index: ShardIndex
    rows: pa.Table
    counts: Array
    keep: Array

    @property
    def clips(self) -> list[str]:
        ids: list[str] = self.rows["clip_id"].to_pylist()
        return ids


def _in_order(parts: list[_Part], lost: set[str]) -> list[list[_Part]]:
    """Order the shards so that an interruption between two of them brings back no superseded row.

    Of a lost clip, the shard whose row counts comes after all shards with other rows of it. Shards that would have to
    come after each other form one group, which is replaced in one commit.
    """
    last = {
        clip: at
        for at, part in enumerate(parts)
        for clip, counts in zip(part.clips, part.counts, strict=True)
        if counts and clip in lost
    }
    after: dict[int, set[int]] = {at: set() for at in range(len(parts))}
    for at, part in enumerate(parts):
        for clip in lost.intersection(part.clips):
            after[last[clip]] |= {at} - {last[clip]}
    group = {at: [at] for at in after}
    while True:
        try:
            return [[parts[at] for at in group[first]] for first in TopologicalSorter(after).static_order()]
        except CycleError as error:
            first, *others = set(error.args[1])
            for other in others:
                group[first] += group.pop(other)
                after[first] |= after.pop(other)
            after = {at: {first if each in others else each for each in them} for at, them in after.items()}
            after[first].discard(first)


def read_intact(folder: Folder, index: ShardIndex, rows: pa.Table) -> tuple[Array, Array, Array]:
    """Read as much of a damaged shard as is there.

    Returns
    -------
    array : (rows,) bool
        Whether the row's features are intact; True for rows without.
    values : as many rows of the arrays as are there
    timestamps : as many rows of the arrays as are there
    """
    values, timestamps = (_what_is_there(folder, index, name) for name in ("values", "timestamps"))
    return intact(rows, values, timestamps), values, timestamps


def _has_damaged_index(folder: Folder, shard: str) -> bool:
    try:
        read_index(folder, shard)
    except DamagedIndex:
        return True
    except Vanished:
        return False
    return False


def _remove_unreadable(folder: Folder, shard: str) -> None:
    """Remove a shard whose index is missing or damaged; its manifest entry last."""
    put_entry(folder, shard, Entry())
    folder.remove(index_name(shard))
    for suffix in shard_suffixes():
        folder.remove(shard + suffix)
    folder.remove(entry_name(shard))


def _what_is_there(folder: Folder, index: ShardIndex, name: str) -> Array:
    location = index.arrays.get(name)
    try:
        if location is None:
            return shard_format(index.shard_format).decode(folder, index.shard, name)
        steps = changed(location, shape=location.shape[1:]).nbytes
        there = ((folder.size(location.file) or 0) - location.offset) // steps
        if there > 0:
            part = Location(
                location.file, location.offset, location.dtype, (min(there, location.shape[0]), *location.shape[1:])
            )
            return part.view(fetched(folder.map(location.file)))
    except SupportsetError:
        pass  # not readable at all
    return np.empty((0, 1), np.float16)


def _write_without(folder: Folder, group: list[_Part]) -> None:
    """Replace shards by one with the rows to keep, in one commit."""
    parts = []
    for part in group:
        index = part.index
        whole, values, timestamps = read_intact(folder, index, part.rows)
        keep = part.keep if len(group) == 1 else part.keep & part.counts  # ids of several shards do not order rows
        if not whole[keep].all():
            name = f"{folder}/{index_name(index.shard)}"
            gone = folder.size(index_name(index.shard)) is None
            said = "another process replaced it" if gone else "it is damaged as well"
            raise SupportsetError(f"{name}: not rewritten, {said}: run `store verify --drop-damaged` again")
        parts.append((part.rows.filter(pa.array(keep)), values, timestamps))
    kept, arrays = repack(parts)
    names = folder.names()
    ids = [part.index.shard for part in group]
    if len(kept) or len(ids) > 1:
        merged = changed(
            group[0].index,
            shard=place(max(ids), set(ids), names),
            files=(),
            arrays={},
            replaces=(*still_replaced([part.index for part in group], names), *ids),
            provenance=merged_provenance([part.index.provenance for part in group]),
        )
        commit(folder, merged, kept, arrays)
        if len(kept):
            return
        ids = [merged.shard]
    remove_replaced(folder, ids)  # first the shards that it replaces, else they would count again
    for shard in ids:
        remove_shard(folder, shard)
