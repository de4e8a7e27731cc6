"""Removal of the features of some clips from a feature set, while other processes read and write it.

Each shard that holds rows of these clips is replaced by one without them, by the rules of :mod:`replacement`: the new
shard is committed first, and lists the old one. Rows that another row of the clip supersedes go first, in all shards,
so that a kill at any step never lets an older row count. All other rows are kept exactly.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, StorePath, open_folder, store_path
from supportset.store.format.card import FeatureCard, load_card
from supportset.store.format.index import ShardIndex, effective, index_name, read_all
from supportset.store.format.registry import shard_format
from supportset.store.format.shard import Array, Compression
from supportset.store.format.thumbnails import has_thumbnails, thumbnails_path
from supportset.store.maintain.orphans import SHARDS
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.replacement import (
    DamagedShard,
    checked_arrays,
    commit,
    place,
    remove_replaced,
    remove_shard,
    repack,
    still_replaced,
)

# What makes a row this one: one that is written meanwhile stays.
_IDENTITY = ("clip_id", "generation", "status", "message", "checksum", "timestamps_checksum", "seconds")
_Row = tuple[Any, ...]
_ROUNDS = 6  # two are enough where no other process replaces shards meanwhile


@dataclass
class Pruning:
    """What a pruning removes, or has removed.

    Attributes
    ----------
    path : StorePath
        Path of the feature set.
    clips : list of str
        Clips with features, or only thumbnails, that are removed, sorted.
    bytes : int
        Size of these features, and of their thumbnails.
    shards : int
        Shards that were written anew, or removed as a whole.
    damaged : list of str
        A line for each damaged shard, which is unchanged.
    """

    path: StorePath
    clips: list[str]
    bytes: int
    shards: int = 0
    damaged: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**vars(self), "path": str(self.path)}


def plan_pruning(path: str | StorePath, clip_ids: Collection[str]) -> Pruning:
    """List what :func:`prune` removes.

    Parameters
    ----------
    path : str or StorePath
        Folder of the feature set.
    clip_ids : collection of str
        Clips to remove; those without features or thumbnails in the set are ignored.

    Raises
    ------
    SupportsetError
        The feature set cannot be opened.
    """
    feature_set = FeatureSet.open(path)
    clips = set(clip_ids).intersection(feature_set.clip_ids)
    plan = Pruning(store_path(path), [], int(feature_set.lengths(clips).sum()) * _step_bytes(feature_set.card))
    if has_thumbnails(path):
        thumbnails = plan_pruning(thumbnails_path(path), clip_ids)
        clips.update(thumbnails.clips)
        plan.bytes += thumbnails.bytes
    plan.clips = sorted(clips)
    return plan


def prune(path: str | StorePath, clip_ids: Collection[str]) -> Pruning:
    """Remove the features of clips, and all rows that they have now; the same `extract` extracts them again.

    Their thumbnails go first, so that an interruption leaves none without features.

    An interrupted pruning loses nothing else, and resumes when run again. Archives stay archives.

    Parameters
    ----------
    path : str or StorePath
        Folder of the feature set.
    clip_ids : collection of str
        Clips to remove; those without features or thumbnails in the set are ignored.

    Returns
    -------
    Pruning
        Clips of a damaged shard stay, and their shard is listed in ``damaged``.

    Raises
    ------
    SupportsetError
        A file cannot be read or written, an index file is damaged, or other processes keep replacing shards.
    """
    done = plan_pruning(path, clip_ids)
    if has_thumbnails(path):
        done.damaged += prune(thumbnails_path(path), clip_ids).damaged
    root = open_folder(path)
    card, folder = load_card(root), root.child(SHARDS)
    remove_replaced(folder)  # of an interrupted run
    unwanted = set(done.clips)
    at_first: set[_Row] | None = None
    for _ in range(_ROUNDS):
        indexes, tables = read_all(folder)
        rows_of = [_rows(table) for table in tables]
        if at_first is None:
            at_first = {row for of_shard in rows_of for row in of_shard if row[0] in unwanted}
        mine = [np.array([row[0] in unwanted and row in at_first for row in each], bool) for each in rows_of]
        drop = _rows_to_drop(tables, mine)
        if not any(mask.any() for mask in drop):
            break
        for index, rows, mask in zip(indexes, tables, drop, strict=True):
            if not mask.any():
                continue
            try:
                _write_without(folder, card, index, rows, mask)
                done.shards += 1
            except DamagedShard as error:
                if folder.size(index_name(index.shard)) is not None:  # else another process replaced it
                    done.damaged.append(str(error))
                    unwanted -= set(rows.filter(pa.array(mask))["clip_id"].to_pylist())
        remove_replaced(folder)
    else:
        raise SupportsetError(f"{folder}: other processes replace shards all the time: run again when they are done")
    left = plan_pruning(path, done.clips)
    return changed(done, clips=sorted(set(done.clips) - set(left.clips)), bytes=done.bytes - left.bytes)


def _rows(table: pa.Table) -> list[_Row]:
    """Rows without their place, which a compaction changes."""
    return list(zip(*(table[name].to_pylist() for name in _IDENTITY), strict=True))


def _rows_to_drop(tables: list[pa.Table], mine: list[Array]) -> list[Array]:
    """Of each shard, the rows to drop now: those of ``mine`` that are superseded, and if none is, all of ``mine``."""
    if not tables:
        return []
    chosen = np.concatenate(mine)
    rank = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    superseded = chosen.copy()
    superseded[effective(pa.concat_tables(tables), rank)] = False
    return np.split(superseded if superseded.any() else chosen, np.cumsum([len(table) for table in tables])[:-1])


def _write_without(folder: Folder, card: FeatureCard, index: ShardIndex, rows: pa.Table, drop: Array) -> None:
    """Replace a shard by one without some of its rows; remove it if no row is left."""
    kept = rows.filter(pa.array(~drop))
    names = folder.names()
    older = still_replaced([index], names)
    if not len(kept):
        remove_replaced(folder, [index.shard])  # first the shards that it replaces, else they would count again
        remove_shard(folder, index.shard)
        return
    values, timestamps = np.empty((0, card.recipe.dim), card.recipe.dtype), np.empty((0, 2), np.float64)
    if pc.any(pc.is_valid(kept["offset"])).as_py():
        arrays = checked_arrays(folder, index, kept, "prune again")
        values, timestamps = arrays.values, arrays.timestamps
    kept, packed = repack([(kept, values, timestamps)])
    new = changed(
        index,
        shard=place(index.shard, {index.shard}, names),
        files=(),
        arrays={},
        replaces=(*older, index.shard),
    )
    commit(folder, new, kept, packed, _compression(index))
    if not older:  # else at the end, the oldest first
        remove_shard(folder, index.shard)


def _compression(index: ShardIndex) -> Compression | None:
    """The compression of an archive: its level is not recorded, the default one is taken."""
    if not index.files or index.arrays:
        return None
    target = shard_format(index.shard_format)
    return target.compression(target.codec or "none")


def _step_bytes(card: FeatureCard) -> int:
    return card.recipe.dim * np.dtype(card.recipe.dtype).itemsize + 2 * np.dtype(np.float64).itemsize
