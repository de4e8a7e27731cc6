"""Repair of damaged shards: intact clips are kept, damaged ones are dropped, to be extracted again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace as changed

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
    found = list(enumerate(zip(indexes, tables, strict=True)))
    masks = {at: read_intact(folder, index, rows)[0] for at, (index, rows) in found if index.shard in shards}
    lost: set[str] = set()
    for at, whole in masks.items():
        lost |= set(tables[at].filter(pa.array(~whole & counts[rank == at]))["clip_id"].to_pylist())
    # A row that another row supersedes must go before that row: the damaged shards come last.
    for at, (index, rows) in sorted(found, key=lambda item: item[0] in masks):
        keep = masks.get(at, np.ones(len(rows), bool))
        keep = keep & ~np.array([clip_id in lost for clip_id in rows["clip_id"].to_pylist()], bool)
        if not keep.all() or at in masks:
            _write_without(folder, index, rows, keep)
    remove_replaced(folder)
    return sorted(lost)


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


def _write_without(folder: Folder, index: ShardIndex, rows: pa.Table, keep: Array) -> None:
    whole, values, timestamps = read_intact(folder, index, rows)
    if not whole[keep].all():
        name = f"{folder}/{index_name(index.shard)}"
        gone = folder.size(index_name(index.shard)) is None
        said = "another process replaced it" if gone else "it is damaged as well"
        raise SupportsetError(f"{name}: not rewritten, {said}: run `store verify --drop-damaged` again")
    kept, arrays = repack([(rows.filter(pa.array(keep)), values, timestamps)])
    names = folder.names()
    if len(kept):
        shard = place(index.shard, {index.shard}, names)
        replaces = (*still_replaced([index], names), index.shard)
        commit(folder, changed(index, shard=shard, files=(), arrays={}, replaces=replaces), kept, arrays)
    else:
        remove_replaced(folder, [index.shard])  # first the shards that it replaces, else they would count again
        remove_shard(folder, index.shard)
