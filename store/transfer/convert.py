"""From one shard format to the other, in place, without a moment at which a reader sees less.

Each shard becomes one of the other format with the same rows, numbers, checksums and generations; its index says
which shard it stands for, and from the moment it is there readers take it instead. The old ones go at the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from store.card import load_card
from store.errors import SupportsetError
from store.files import Folder, as_part, hash_parts, open_folder
from store.index import (
    ShardIndex,
    Vanished,
    describe,
    index_name,
    read_all,
    read_index,
    shard_of,
    write_index,
)
from store.shard import ARRAYS, ShardArrays, ShardFormat, shard_format

Progress = Callable[[int, int], None]


@dataclass
class ConvertSummary:
    """What became of a conversion.

    Attributes
    ----------
    path : of the feature set
    shard_format : the one asked for
    converted : shards written
    clips : rows with features in them
    already : shards that had the format, or hold failures only, which have none
    removed : shards that others stand for, now gone
    kept : shards that others stand for, left for `store compact`
    damaged : one line each for shards that were left as they are
    """

    path: Path
    shard_format: str
    converted: int = 0
    clips: int = 0
    already: int = 0
    removed: int = 0
    kept: int = 0
    damaged: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {**vars(self), "path": str(self.path)}


def convert_feature_set(
    path: str | Path, to: str, *, keep_old: bool = False, progress: Progress | None = None
) -> ConvertSummary:
    """Bring every shard of a feature set into one format, bit for bit.

    Stopped at any moment, the set reads as before; run again, it goes on. A process that opened the set earlier must
    open it again once the old shards are gone.

    Parameters
    ----------
    path : the feature set's folder
    to : ``zarr`` or ``hdf5``
    keep_old : leave the old shards to `store compact`, for processes that read the set now
    progress : called with the number of shards done and of all

    Returns
    -------
    ConvertSummary
        A shard whose numbers do not fit their checksums stays as it is, and is told in ``damaged``.

    Raises
    ------
    UsageError
        Unknown format; no feature set in the folder.
    SupportsetError
        The disk refuses; an index file is damaged.
    """
    target = shard_format(to)
    root = open_folder(path)
    load_card(root)
    folder = root.child("shards")
    summary = ConvertSummary(Path(path), target.name)
    indexes, tables = read_all(folder)
    for done, (index, rows) in enumerate(zip(indexes, tables, strict=True), 1):
        if not index.files or index.shard_format == target.name:
            summary.already += 1
        else:
            try:
                arrays = _checked(folder, index, rows)
            except _Damaged as error:
                summary.damaged.append(str(error))
            else:
                _write(folder, target, index, rows, arrays)
                summary.converted += 1
                summary.clips += len(rows) - rows["offset"].null_count
        if progress:
            progress(done, len(indexes))
    old = list(_replaced(folder))
    if keep_old:
        summary.kept = len(old)
    else:
        for shard in old:
            remove_shard(folder, shard)
        summary.removed = len(old)
    return summary


class _Damaged(SupportsetError):  # noqa: N818 - named for what it tells
    """A shard whose files are not what its index says."""


def _checked(folder: Folder, index: ShardIndex, rows: pa.Table) -> ShardArrays:
    """The arrays of a shard, each clip compared with its checksums."""
    for file in index.files:
        size = folder.size(file.name)
        if size != file.size:
            told = "is gone" if size is None else f"has {size} bytes, its index says {file.size}"
            raise _Damaged(f"{folder}/{file.name}: the shard file {told}: restore it, then convert again")
    stored_as = shard_format(index.shard_format)
    try:
        found = {
            name: index.arrays[name].view(folder.map(index.arrays[name].file))
            if name in index.arrays
            else stored_as.decode(folder, index.shard, name)
            for name in ARRAYS
        }
    except SupportsetError as error:
        raise _Damaged(str(error)) from None
    arrays = ShardArrays(**found)
    columns = ("clip_id", "offset", "length", "checksum", "timestamps_checksum")
    for clip_id, offset, length, *stated in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        if offset is None:
            continue
        span = slice(offset, offset + length)
        pieces = (as_part(array[span]) for array in (arrays.values, arrays.timestamps))
        if [xxhash.xxh3_64_intdigest(piece) for piece in pieces] != stated:
            raise _Damaged(
                f"{folder}/{stored_as.root(index.shard)}: the features of clip {clip_id!r} do not fit their checksum: "
                "restore the shard, then convert again"
            )
    return arrays


def _write(folder: Folder, target: ShardFormat, old: ShardIndex, rows: pa.Table, arrays: ShardArrays) -> None:
    """Write a shard's content in another format, and commit it in the place of the old one."""
    names = folder.names()
    shard = _successor(old.shard, names)
    encoded = target.encode(shard, arrays)
    index = changed(
        old,
        shard=shard,
        shard_format=target.name,
        files=describe(encoded),
        arrays=encoded.arrays,
        # what the old one stood for may still lie there: it must not come back to life with the old one gone
        replaces=(*(older for older in old.replaces if index_name(older) in names), old.shard),
    )
    folder.put(encoded.files)
    try:
        for file in index.files:  # as they are on disk: the old shard is given up for them
            if file.size and hash_parts([folder.map(file.name)]) != file.xxh3:
                raise SupportsetError(f"{folder}/{file.name}: does not read back as written: check the disk")
        write_index(folder, index, rows)
    except SupportsetError:
        folder.remove(target.root(shard))  # without an index nobody will ever look at it
        raise


def _successor(shard: str, names: Iterable[str]) -> str:
    """A new id that sorts where the old one does, as the order of ids decides between rows of equal generation."""
    taken = {name.partition(".")[0] for name in names}
    while (found := shard[:12] + secrets.token_hex(2)) in taken:
        pass
    return found


def _replaced(folder: Folder) -> Iterable[str]:
    """Ids of the shards that others stand for and that are still there, those that stand for others themselves last."""
    there = {shard for name in folder.names() if (shard := shard_of(name))}
    stands_for: dict[str, tuple[str, ...]] = {}
    for shard in sorted(there):
        try:
            stands_for[shard] = read_index(folder, shard, ["clip_id"])[0].replaces
        except Vanished:  # another process removed it
            continue
    order: dict[str, None] = {}

    def visit(shard: str) -> None:
        for older in stands_for.get(shard, ()):
            if older in stands_for and older not in order:
                visit(older)
                order[older] = None

    for shard in stands_for:
        visit(shard)
    return order


def remove_shard(folder: Folder, shard: str) -> None:
    """Remove a shard: its index first, so that nobody sees an index without its files.

    Parameters
    ----------
    folder : the ``shards`` folder
    shard : id of a shard that another one stands for
    """
    try:
        index, _ = read_index(folder, shard, ["clip_id"])
    except Vanished:
        return
    folder.remove(index_name(shard))
    if index.files:
        folder.remove(shard_format(index.shard_format).root(shard))
