"""Compaction: fewer and larger shards without superseded rows and orphans, while other processes read and write.

- Shards with fewer clips than requested, or with superseded rows (a failure before a retry), are merged. Rows that
  count are kept exactly.
- The new shard is committed first, and lists the shards that it replaces; these are removed afterwards. An interruption
  at any step loses nothing, and the next run resumes.
- Orphans (shards that were not committed, temporary files) may belong to a running writer. They are removed when they
  have not changed for :data:`SAFE_AGE` seconds by the storage's clock: a running writer changes its files all the time,
  and commits a shard within moments. If no writer runs, the age may be 0.
- A shard that has no index, and whose manifest entry does not prove that it was never committed, is not removed.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import TEMPORARY, Folder, StorePath, open_folder, store_path
from supportset.store.format.card import FeatureCard, load_card
from supportset.store.format.index import SCHEMA, ShardIndex, effective, index_name, read_all, read_index, shard_of
from supportset.store.format.manifest import Entry, entry_name, put_entry, read_entry
from supportset.store.format.shard import Array
from supportset.store.format.thumbnails import has_thumbnails, thumbnails_path
from supportset.store.maintain.orphans import SHARDS, find_orphans
from supportset.store.write.replacement import (
    DamagedShard,
    checked_arrays,
    commit,
    merged_provenance,
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
    """Outcome of a compaction.

    Attributes
    ----------
    path : StorePath
        Path of the feature set.
    shards_before : int
    shards_after : int
        Number of shards that count.
    merged : int
        Shards that were merged.
    written : int
        Shards that replace them.
    rows_dropped : int
        Superseded rows that were dropped.
    removed : int
        Replaced shards that were removed.
    orphans : list of str
        Orphaned files that were removed.
    orphans_left : list of str
        Orphaned files so young that a running writer may need them.
    unlisted : list of str
        Shards without index and manifest entry, which are left.
    damaged : list of str
        A line for each damaged shard, which is unchanged.
    thumbnails : CompactSummary, optional
        Of the set's thumbnails, if it has some.
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
    unlisted: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    thumbnails: CompactSummary | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        thumbnails = None if self.thumbnails is None else self.thumbnails.to_json()
        return {**vars(self), "path": str(self.path), "thumbnails": thumbnails}


@dataclass
class _Shard:
    """A shard with its rows that count."""

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
    """Merge small shards, drop superseded rows, and remove orphans of killed writers; also of the thumbnails.

    A second run has nothing to do, unless something was left. Compressed shards (archives) are not merged.

    Parameters
    ----------
    path : str or StorePath
        Folder of the feature set.
    clips_per_shard : int, default 1000
        Maximum number of rows a shard; larger shards are not split.
    bytes_per_shard : int, default BYTES_PER_SHARD
        Maximum size of its values.
    safe_age : float, default SAFE_AGE
        Seconds without a change after which orphans are removed.
    progress : callable, optional
        Called with the numbers of shards that are done and that will be merged.

    Raises
    ------
    UsageError
        The folder has no feature set, or a size or the age is impossible.
    SupportsetError
        A file cannot be read or written, or an index file is damaged.
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
    summary.removed = remove_replaced(folder)  # of an interrupted run, or of a conversion with keep_old
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
    if not summary.unlisted:  # else they would count as lost
        _complete_manifest(folder)
    summary.shards_after = len(read_all(folder, ["clip_id"])[0])
    if has_thumbnails(path):
        summary.thumbnails = compact(
            thumbnails_path(path),
            clips_per_shard=clips_per_shard,
            bytes_per_shard=bytes_per_shard,
            safe_age=safe_age,
            progress=progress,
        )
    return summary


def _read(folder: Folder, card: FeatureCard) -> list[_Shard]:
    """Read all shards in the order of ids, with the rows that count."""
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
    """Group the shards to merge: each joins the first group of its format with space.

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
    """Replace several shards by one; return how many were removed."""
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
            if folder.size(index_name(shard.index.shard)) is not None:  # else another process replaced it
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
            provenance=merged_provenance([shard.index.provenance for shard in taken]),
        )
        commit(folder, merged, rows, packed)
        summary.written += 1
    elif older:  # first the shards that they replace, else those would count again
        remove_replaced(folder, ids)
    summary.merged += len(taken)
    summary.rows_dropped += sum(shard.dropped for shard in taken)
    if older and len(rows):
        return 0  # at the end, the oldest first
    for shard_id in ids:
        remove_shard(folder, shard_id)
    return len(ids)


def _remove_orphans(summary: CompactSummary, folder: Folder, safe_age: float) -> None:
    found = find_orphans(summary.path)
    summary.unlisted = [str(orphan.path) for orphan in found if orphan.kind == "unlisted"]
    found = [orphan for orphan in found if orphan.kind in ("orphan", "temporary")]
    if not found:
        return
    now = _clock(folder)
    latest: dict[str, float] = {}  # change of any file of a shard
    for orphan in found:
        latest[orphan.shard] = max(latest.get(orphan.shard, -math.inf), orphan.changed)
    for orphan in found:
        age = now - (latest[orphan.shard] if orphan.shard else orphan.changed)
        kept = safe_age > 0 if math.isnan(age) else age < safe_age  # without times: only on request
        if kept:
            summary.orphans_left.append(str(orphan.path))
            continue
        index = index_name(orphan.shard) if orphan.shard else None
        if open_folder(orphan.path.parent).remove_unless(orphan.path.name, index):  # else its writer has resumed
            summary.orphans.append(str(orphan.path))


def _complete_manifest(folder: Folder) -> None:
    """Add manifest entries for shards that have none, as in sets that were written before there were manifests."""
    names = set(folder.names())
    for shard in filter(None, map(shard_of, names)):
        content = folder.read(index_name(shard))
        if content is None:
            continue
        entry = Entry.of_index(content)
        with suppress(SupportsetError):  # a damaged entry is written anew
            if entry_name(shard) in names and read_entry(folder, shard) == entry:
                continue
        read_index(folder, shard)  # only a valid index gets an entry
        put_entry(folder, shard, entry)
        if folder.size(index_name(shard)) is None:  # another process removed the shard meanwhile
            folder.remove(entry_name(shard))


def _clock(folder: Folder) -> float:
    """Time of the storage, which may differ from that of this machine."""
    name = f"{TEMPORARY}clock-{secrets.token_hex(4)}"
    folder.put({name: [b"now"]})
    now = folder.changed(name)
    folder.remove(name)
    if now is None:
        raise SupportsetError(f"{folder}/{name}: the file vanishes after it is written: check the disk")
    return now
