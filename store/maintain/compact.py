"""Fewer and larger shards, without superseded rows and orphaned files, while others read and write.

- A shard is taken up if it has fewer clips than asked for, or holds rows that another row of the same clip beats
  (the failure before a retry). Those that fit together become one; rows that count are kept exactly.
- The new shard is committed first, and says which ones it replaces; those go afterwards. A stop at any step is
  harmless, and a second run finishes the work.
- Orphaned files (shards without an index, temporary files) may belong to a running writer. They are removed once they
  have not changed for :data:`SAFE_AGE` seconds by the storage's own clock: a writer changes its files all the time, and
  commits a shard right after finishing it. Who knows that no writer runs may set the age to 0.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import TEMPORARY, Folder, StorePath, open_folder, store_path
from supportset.store.format.card import FeatureCard, load_card
from supportset.store.format.index import SCHEMA, ShardIndex, effective, index_name, read_all
from supportset.store.format.shard import Array
from supportset.store.maintain.orphans import SHARDS, find_orphans
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
from supportset.store.write.writer import BYTES_PER_SHARD

SAFE_AGE = 3600.0

Progress = Callable[[int, int], None]


@dataclass
class CompactSummary:
    """The outcome of a compaction.

    Attributes
    ----------
    path : StorePath
        Of the feature set.
    shards_before : int
        That count.
    shards_after : int
        That count.
    merged : int
        Shards whose clips were taken over by others.
    written : int
        Shards that took them.
    rows_dropped : int
        Rows that another one of the same clip beat.
    removed : int
        Old shards now gone.
    orphans : list of str
        Shards without an index and temporary files that were removed.
    orphans_left : list of str
        The same, but so young that they may be a running writer's.
    damaged : list of str
        One line each for shards that were left as they are.
    """

    path: StorePath
    shards_before: int = 0
    shards_after: int = 0
    merged: int = 0
    written: int = 0
    rows_dropped: int = 0
    removed: int = 0
    orphans: list[str] = field(default_factory=list)
    orphans_left: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {**vars(self), "path": str(self.path)}


@dataclass
class _Shard:
    """A shard with those of its rows that count."""

    index: ShardIndex
    rows: pa.Table
    dropped: int

    @property
    def steps(self) -> int:
        return int(np.sum(self.rows["length"].to_numpy()))


def compact(
    path: str | StorePath,
    *,
    clips_per_shard: int = 1000,
    bytes_per_shard: int = BYTES_PER_SHARD,
    safe_age: float = SAFE_AGE,
    progress: Progress | None = None,
) -> CompactSummary:
    """Merge small shards, drop rows that count no more, remove what killed writers left.

    A second run has nothing to do, unless something was left. Compressed shards (archives) are not taken up.

    Parameters
    ----------
    path : str or StorePath
        The feature set's folder.
    clips_per_shard : int, default 1000
        Rows a shard may have at most; larger ones stay as they are, or shrink.
    bytes_per_shard : int, default BYTES_PER_SHARD
        Of values, likewise.
    safe_age : float, default SAFE_AGE
        Seconds without a change after which an orphaned file cannot be a running writer's.
    progress : callable, optional
        Called with the number of shards done and of all that are taken up.

    Raises
    ------
    UsageError
        No feature set in the folder; a size or an age that cannot be.
    SupportsetError
        The disk refuses; an index file is damaged.
    """
    if clips_per_shard < 1 or bytes_per_shard < 1 or safe_age < 0:
        raise UsageError(
            f"compact: {clips_per_shard} clips, {bytes_per_shard} bytes a shard, an age of {safe_age:g} s: "
            "sizes must be at least 1, the age at least 0"
        )
    root = open_folder(path)
    card = load_card(root)
    folder = root.child(SHARDS)
    summary = CompactSummary(store_path(path))
    summary.removed = remove_replaced(folder)  # of a run that was cut short, or of a conversion that kept them
    shards = _read(folder, card)
    summary.shards_before = len(shards)
    row_bytes = card.recipe.dim * np.dtype(card.recipe.dtype).itemsize
    groups = _plan(shards, clips_per_shard, bytes_per_shard // row_bytes)
    total, done = sum(map(len, groups)), 0
    for group in groups:
        summary.removed += _merge(folder, card, group, summary)
        done += len(group)
        if progress:
            progress(done, total)
    summary.removed += remove_replaced(folder)
    _remove_orphans(summary, folder, safe_age)
    summary.shards_after = len(read_all(folder, ["clip_id"])[0])
    return summary


def _read(folder: Folder, card: FeatureCard) -> list[_Shard]:
    """All shards in the order of their ids, each with the rows that count."""
    indexes, tables = read_all(folder)
    for index in indexes:
        if index.recipe_hash != card.recipe.hash:
            raise SupportsetError(
                f"{folder}/{index_name(index.shard)}: belongs to the recipe {index.recipe_hash}, the card is of "
                f"{card.recipe.hash}: move the shard to the feature set it came from"
            )
    rank = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    counts = np.zeros(len(rank), bool)
    counts[effective(pa.concat_tables(tables or [SCHEMA.empty_table()]), rank)] = True
    kept = np.split(counts, np.cumsum([len(table) for table in tables])[:-1]) if tables else []
    return [
        _Shard(index, table.filter(pa.array(mask)), int((~mask).sum()))
        for index, table, mask in zip(indexes, tables, kept, strict=True)
    ]


def _plan(shards: Sequence[_Shard], clips: int, steps: int) -> list[list[_Shard]]:
    """Which shards to write as one: each goes to the first of its format with room for it.

    So no two results fit together, and a second run finds nothing to merge.
    """
    groups: list[list[_Shard]] = []
    filled: list[tuple[str, int, int]] = []
    for shard in shards:
        if shard.index.files and not shard.index.arrays:
            continue  # an archive
        name, rows, size = shard.index.shard_format, len(shard.rows), shard.steps
        for i, (of, has_rows, has_size) in enumerate(filled):
            if of == name and has_rows + rows <= clips and has_size + size <= steps:
                groups[i].append(shard)
                filled[i] = name, has_rows + rows, has_size + size
                break
        else:
            groups.append([shard])
            filled.append((name, rows, size))
    return [group for group in groups if len(group) > 1 or group[0].dropped or not len(group[0].rows)]


def _merge(folder: Folder, card: FeatureCard, group: list[_Shard], summary: CompactSummary) -> int:
    """Write one shard in the place of several; say how many were removed."""
    parts: list[tuple[pa.Table, Array, Array]] = []
    taken: list[_Shard] = []
    empty = np.empty((0, card.recipe.dim), card.recipe.dtype), np.empty((0, 2), np.float64)
    for shard in group:
        try:
            values, timestamps = empty
            if shard.steps:
                arrays = checked_arrays(folder, shard.index, shard.rows, "compact again")
                values, timestamps = arrays.values, arrays.timestamps
            for array, like in zip((values, timestamps), empty, strict=True):
                if array.dtype != like.dtype or array.shape[1:] != like.shape[1:]:
                    name = f"{folder}/{index_name(shard.index.shard)}"
                    raise DamagedShard(f"{name}: holds {array.dtype} {array.shape}: restore it, then compact again")
        except DamagedShard as error:
            if folder.size(index_name(shard.index.shard)) is not None:  # else another process took it over
                summary.damaged.append(str(error))
        else:
            parts.append((shard.rows, values, timestamps))
            taken.append(shard)
    if not taken or (len(taken) == 1 and not taken[0].dropped and len(taken[0].rows)):
        return 0
    rows, packed = repack(parts)
    names = folder.names()
    ids = [shard.index.shard for shard in taken]
    older = still_replaced([shard.index for shard in taken], names)
    if len(rows):
        merged = ShardIndex(
            shard=place(max(ids), set(ids), names),
            shard_format=taken[0].index.shard_format,
            recipe_hash=card.recipe.hash,
            replaces=(*dict.fromkeys((*older, *ids)),),
            provenance=_provenance([shard.index.provenance for shard in taken]),
        )
        commit(folder, merged, rows, packed)
        summary.written += 1
    elif older:  # what they replace goes first, else it would count again
        remove_replaced(folder, ids)
    summary.merged += len(taken)
    summary.rows_dropped += sum(shard.dropped for shard in taken)
    if older and len(rows):
        return 0  # in the end, in order of age
    for shard_id in ids:
        remove_shard(folder, shard_id)
    return len(ids)


def _provenance(all_of_them: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """That of the runs that computed the features: as it is if there is one, else a list."""
    distinct: list[dict[str, Any]] = []
    for provenance in all_of_them:
        distinct += [each for each in provenance.get("merged", [provenance]) if each not in distinct]
    return distinct[0] if len(distinct) == 1 else {"merged": distinct}


def _remove_orphans(summary: CompactSummary, folder: Folder, safe_age: float) -> None:
    found = [orphan for orphan in find_orphans(summary.path) if orphan.kind != "foreign"]
    if not found:
        return
    now = _clock(folder)
    for orphan in found:
        age = now - orphan.changed
        kept = safe_age > 0 if math.isnan(age) else age < safe_age  # a storage that tells no times: only when asked to
        if kept:
            summary.orphans_left.append(str(orphan.path))
            continue
        name = orphan.path.name
        index = index_name(PurePosixPath(name).stem) if orphan.kind == "orphan" else None
        if open_folder(orphan.path.parent).remove_unless(name, index):  # else its writer has come back
            summary.orphans.append(str(orphan.path))


def _clock(folder: Folder) -> float:
    """The time of the storage, which need not be that of this machine."""
    name = f"{TEMPORARY}clock-{secrets.token_hex(4)}"
    folder.put({name: [b"now"]})
    now = folder.changed(name)
    folder.remove(name)
    if now is None:
        raise SupportsetError(f"{folder}/{name}: the file is gone as soon as it is written: check the disk")
    return now
