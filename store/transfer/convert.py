"""From one shard format to the other, to an archive and back, in place, without a moment at which a reader sees less.

Each shard becomes one of the other form with the same rows, numbers, checksums and generations; its index says
which shard it stands for, and from the moment it is there readers take it instead. The old ones go at the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

import pyarrow as pa

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, StorePath, open_folder, store_path
from supportset.store.format.card import load_card
from supportset.store.format.index import ShardIndex, read_all
from supportset.store.format.registry import shard_format
from supportset.store.format.shard import Compression, ShardArrays, ShardFormat
from supportset.store.write.replacement import (
    DamagedShard,
    checked_arrays,
    commit,
    remove_replaced,
    replaced_shards,
    still_replaced,
)

Progress = Callable[[int, int], None]

NONE = "none"  # no compression


@dataclass
class ConvertSummary:
    """What became of a conversion.

    Attributes
    ----------
    path : of the feature set
    shard_format : the one asked for
    compression : ``none``, or as ``zstd:3``
    converted : shards written
    clips : rows with features in them
    bytes_before, bytes_after : size of the shards that were converted, and of those that took their places
    already : shards that had the form, or hold failures only, which have none
    removed : shards that others stand for, now gone
    kept : shards that others stand for, left for `store compact`
    damaged : one line each for shards that were left as they are
    """

    path: StorePath
    shard_format: str
    compression: str = NONE
    converted: int = 0
    clips: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    already: int = 0
    removed: int = 0
    kept: int = 0
    damaged: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {**vars(self), "path": str(self.path)}


def convert_feature_set(
    path: str | StorePath,
    to: str,
    *,
    compress: str = NONE,
    keep_old: bool = False,
    progress: Progress | None = None,
) -> ConvertSummary:
    """Bring every shard of a feature set into one format, compressed or not, bit for bit.

    Compressed shards are archives: smaller, and unpacked into memory by each reader instead of being mapped.

    Stopped at any moment, the set reads as before; run again, it goes on. A process that opened the set earlier finds
    its clips in the new shards by itself.

    Parameters
    ----------
    path : the feature set's folder
    to : ``zarr`` or ``hdf5``
    compress : ``none``; for archives ``zstd`` (zarr) or ``gzip`` (hdf5), with a level as ``zstd:9`` if wanted
    keep_old : leave the old shards to `store compact`, for processes that read the set now
    progress : called with the number of shards done and of all

    Returns
    -------
    ConvertSummary
        A shard whose numbers do not fit their checksums stays as it is, and is told in ``damaged``.

    Raises
    ------
    UsageError
        Unknown format, or a compression that it does not have; no feature set in the folder.
    SupportsetError
        The disk refuses; an index file is damaged.
    """
    target = shard_format(to)
    compression = target.compression(compress)
    root = open_folder(path)
    load_card(root)
    folder = root.child("shards")
    summary = ConvertSummary(store_path(path), target.name, str(compression or NONE))
    indexes, tables = read_all(folder)
    for done, (index, rows) in enumerate(zip(indexes, tables, strict=True), 1):
        if not index.files or _is_so_already(folder, index, target, compression):
            summary.already += 1
        else:
            try:
                arrays = checked_arrays(folder, index, rows, "convert again")
            except DamagedShard as error:
                summary.damaged.append(str(error))
            else:
                written = _write(folder, target, compression, index, rows, arrays)
                summary.converted += 1
                summary.bytes_before += sum(file.size for file in index.files)
                summary.bytes_after += sum(file.size for file in written.files)
                summary.clips += len(rows) - rows["offset"].null_count
        if progress:
            progress(done, len(indexes))
    if keep_old:
        summary.kept = len(list(replaced_shards(folder)))
    else:
        summary.removed = remove_replaced(folder)
    return summary


def _is_so_already(folder: Folder, index: ShardIndex, target: ShardFormat, compression: Compression | None) -> bool:
    if index.shard_format != target.name or (compression is None) != bool(index.arrays):
        return False
    try:
        return compression is None or target.is_compressed(folder, index.shard, compression)
    except SupportsetError:
        return False  # damaged: told when its arrays are read


def _write(
    folder: Folder,
    target: ShardFormat,
    compression: Compression | None,
    old: ShardIndex,
    rows: pa.Table,
    arrays: ShardArrays,
) -> ShardIndex:
    """Write a shard's content in another form, and commit it in the place of the old one."""
    names = folder.names()
    index = changed(
        old,
        shard=_successor(old.shard, names),
        shard_format=target.name,
        replaces=(*still_replaced([old], names), old.shard),
    )
    return commit(folder, index, rows, arrays, compression)


def _successor(shard: str, names: Iterable[str]) -> str:
    """A new id that sorts where the old one does, as the order of ids decides between rows of equal generation."""
    taken = {name.partition(".")[0] for name in names}
    while (found := shard[:12] + secrets.token_hex(2)) in taken:
        pass
    return found
