"""Conversion between shard formats, and to archives and back, in place while others read.

Each shard is replaced by one in the target form, with the same rows, values, checksums and generations. Its index lists
the shard that it replaces; from its commit on, readers use the new one. The old ones are removed at the end.
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
from supportset.store.format.thumbnails import has_thumbnails, thumbnails_path
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
    """Outcome of a conversion.

    Attributes
    ----------
    path : StorePath
        Of the feature set.
    shard_format : str
        Target format.
    compression : str
        ``none``, or such as ``zstd:3``.
    converted : int
        Shards written.
    clips : int
        Rows with features in these.
    bytes_before : int
        Size of the converted shards.
    bytes_after : int
        Size of their replacements.
    already : int
        Shards that had the target form, or hold only failures.
    removed : int
        Replaced shards that were removed.
    kept : int
        Replaced shards that were left for `store compact`.
    damaged : list of str
        A line for each damaged shard, which is unchanged.
    thumbnails : ConvertSummary, optional
        Of the set's thumbnails, if it has some.
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
    thumbnails: ConvertSummary | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        thumbnails = None if self.thumbnails is None else self.thumbnails.to_json()
        return {**vars(self), "path": str(self.path), "thumbnails": thumbnails}


def convert_feature_set(
    path: str | StorePath,
    to: str,
    *,
    compress: str = NONE,
    keep_old: bool = False,
    progress: Progress | None = None,
) -> ConvertSummary:
    """Convert every shard of a feature set to one format, compressed or not, bit for bit.

    Compressed shards are archives: smaller, but each reader unpacks them into memory and does not map them.

    Thumbnails are converted, too, but never compressed: they are JPEGs.

    An interrupted conversion loses nothing, and resumes when run again. A process that opened the set earlier finds
    its clips in the new shards.

    Parameters
    ----------
    path : str or StorePath
        The feature set's folder.
    to : str
        Name of a shard format.
    compress : str, default NONE
        ``none``; for archives ``zstd`` (zarr) or ``gzip`` (hdf5), optionally with a level, such as ``zstd:9``.
    keep_old : bool, default False
        Leave the old shards for `store compact`, while other processes read the set.
    progress : callable, optional
        Called with the number of shards done and of all.

    Returns
    -------
    ConvertSummary
        A shard whose values do not match their checksums is not converted, and listed in ``damaged``.

    Raises
    ------
    UsageError
        The format or its compression is unknown, or the folder has no feature set.
    SupportsetError
        A file cannot be read or written, or an index file is damaged.
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
    if has_thumbnails(path):
        summary.thumbnails = convert_feature_set(thumbnails_path(path), to, keep_old=keep_old, progress=progress)
    return summary


def _is_so_already(folder: Folder, index: ShardIndex, target: ShardFormat, compression: Compression | None) -> bool:
    if index.shard_format != target.name or (compression is None) != bool(index.arrays):
        return False
    try:
        return compression is None or target.is_compressed(folder, index.shard, compression)
    except SupportsetError:
        return False  # damaged: reported when its arrays are read


def _write(
    folder: Folder,
    target: ShardFormat,
    compression: Compression | None,
    old: ShardIndex,
    rows: pa.Table,
    arrays: ShardArrays,
) -> ShardIndex:
    """Write a shard in the target form, and commit it as the replacement."""
    names = folder.names()
    index = changed(
        old,
        shard=_successor(old.shard, names),
        shard_format=target.name,
        replaces=(*still_replaced([old], names), old.shard),
    )
    return commit(folder, index, rows, arrays, compression)


def _successor(shard: str, names: Iterable[str]) -> str:
    """A new id with the same position in the order of ids, which decides between rows of equal generation."""
    taken = {name.partition(".")[0] for name in names}
    while (found := shard[:12] + secrets.token_hex(2)) in taken:
        pass
    return found
