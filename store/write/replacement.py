"""Shards that stand for others: what conversion, compaction and the dropping of damaged clips have in common.

The new shard is committed first, with the ids of those it replaces in its index; from then on readers take it
instead. The others are removed afterwards, the eldest first. A stop anywhere in between is harmless.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace as changed

import numpy as np
import pyarrow as pa
import xxhash

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, as_part, fetched, hash_pieces
from supportset.store.format.index import (
    ShardIndex,
    StoredFile,
    Vanished,
    describe,
    index_name,
    read_index,
    shard_of,
    write_index,
)
from supportset.store.format.registry import shard_format
from supportset.store.format.shard import ARRAYS, Array, Compression, ShardArrays


class DamagedShard(SupportsetError):  # noqa: N818 - named for what it tells
    """A shard whose files are not what its index says."""


def checked_arrays(folder: Folder, index: ShardIndex, rows: pa.Table, then: str) -> ShardArrays:
    """The arrays of a shard, mapped, with each clip compared with its checksums.

    Parameters
    ----------
    folder : the ``shards`` folder
    index : of a shard that has files
    rows : of its index; only the clips in them are looked at
    then : what to do once the shard is restored, for the message: ``convert again``

    Raises
    ------
    DamagedShard
        A file is gone or has another size, or a clip does not fit its checksums.
    """
    there = folder.files(index.root)
    for file in index.files:
        if (size := there.get(file.name)) != file.size:
            told = "is gone" if size is None else f"has {size} bytes, its index says {file.size}"
            raise DamagedShard(f"{folder}/{file.name}: the shard file {told}: restore it, then {then}")
    try:
        found = {
            name: index.arrays[name].view(fetched(folder.map(index.arrays[name].file)))
            if name in index.arrays
            else shard_format(index.shard_format).decode(folder, index.shard, name)
            for name in ARRAYS
        }
    except SupportsetError as error:
        raise DamagedShard(str(error)) from None
    arrays = ShardArrays(**found)
    if not (whole := intact(rows, arrays.values, arrays.timestamps)).all():
        clip_id = rows["clip_id"][int(np.flatnonzero(~whole)[0])].as_py()
        raise DamagedShard(
            f"{folder}/{index.root}: the features of clip {clip_id!r} do not fit their checksum: "
            f"restore the shard, then {then}"
        )
    return arrays


def intact(rows: pa.Table, values: Array, timestamps: Array) -> Array:
    """Whether the features of each row are those it was written with.

    Parameters
    ----------
    rows : of a shard's index
    values, timestamps : the shard's arrays, or as many rows of them as there are

    Returns
    -------
    (rows,) bool
        True for rows without features, which cannot be damaged.
    """
    whole = np.ones(len(rows), bool)
    there = min(len(values), len(timestamps))
    columns = ("offset", "length", "checksum", "timestamps_checksum")
    for row, (offset, length, *stated) in enumerate(zip(*(rows[name].to_pylist() for name in columns), strict=True)):
        if offset is None:
            continue
        span = slice(offset, offset + length)
        whole[row] = span.stop <= there and stated == [
            xxhash.xxh3_64_intdigest(as_part(array[span])) for array in (values, timestamps)
        ]
    return whole


def repack(parts: Sequence[tuple[pa.Table, Array, Array]]) -> tuple[pa.Table, ShardArrays | None]:
    """Lay the features of rows of several shards side by side.

    Parameters
    ----------
    parts : rows of a shard's index, its ``values`` and its ``timestamps``

    Returns
    -------
    rows : all of them, in the order given, with their offsets in the new arrays
    arrays : None where no row has features
    """
    rows = pa.concat_tables([part[0] for part in parts])
    values: list[Array] = []
    timestamps: list[Array] = []
    for table, old_values, old_timestamps in parts:
        for offset, length in zip(table["offset"].to_pylist(), table["length"].to_pylist(), strict=True):
            if offset is not None:
                values.append(old_values[offset : offset + length])
                timestamps.append(old_timestamps[offset : offset + length])
    if not values:
        return rows, None
    arrays = ShardArrays.pack(values, timestamps)
    failed = rows["offset"].is_null().to_numpy()
    offsets = np.zeros(len(rows), np.int64)
    offsets[~failed] = arrays.offsets[:-1]
    place = rows.column_names.index("offset")
    return rows.set_column(place, rows.schema.field(place), pa.array(offsets, mask=failed)), arrays


def commit(
    folder: Folder,
    index: ShardIndex,
    rows: pa.Table,
    arrays: ShardArrays | None,
    compression: Compression | None = None,
) -> ShardIndex:
    """Write a shard, read it back, and commit it.

    Parameters
    ----------
    folder : the ``shards`` folder
    index : with everything set but ``files`` and ``arrays``
    rows : of its index
    arrays : what its clips have; None where none of them has features
    compression : makes the shard an archive

    Returns
    -------
    ShardIndex
        As it is committed, with ``files`` and ``arrays``.

    Raises
    ------
    SupportsetError
        The file system refuses, or does not hold what was written. Readers see nothing of the shard then, unless only
        the flushing of the folder after the commit failed.
    """
    target = shard_format(index.shard_format)
    try:
        if arrays is not None:
            encoded = target.encode(index.shard, arrays, compression)
            index = changed(index, files=describe(encoded), arrays=encoded.arrays)
            folder.put(encoded.files)
        for file in index.files:  # as they are on disk: other shards are given up for them
            if hash_pieces(folder.pieces(file.name)) != file.xxh3:
                raise SupportsetError(f"{folder}/{file.name}: does not read back as written: check the disk")
        write_index(folder, index, rows)
        if not (is_whole(folder, index) or folder.size(index_name(index.shard)) is None):
            # The process was suspended for so long that the files were rubbish for `store compact`: see FeatureWriter.
            folder.remove(index_name(index.shard))  # what it stands for counts again
            raise SupportsetError(f"{folder}/{target.root(index.shard)}: was removed while it was written: run again")
    except SupportsetError:
        # Without an index nobody will ever look at the shard. But the index may be there although the folder could
        # not be flushed after it: then its shard must stay.
        with suppress(SupportsetError):
            if folder.size(index_name(index.shard)) is None:
                folder.remove(target.root(index.shard))
        raise
    return index


def is_whole(folder: Folder, index: ShardIndex) -> bool:
    """Whether a shard's files are all there, with the sizes that its index says."""
    return are_whole(folder, index.files)


def are_whole(folder: Folder, files: Sequence[StoredFile]) -> bool:
    """Whether the files of one shard are all there, with these sizes: one look at a remote storage, not one a file."""
    there = folder.files(files[0].name.partition("/")[0]) if files else {}
    return all(there.get(file.name) == file.size for file in files)


def still_replaced(indexes: Iterable[ShardIndex], names: Iterable[str]) -> tuple[str, ...]:
    """What a shard that takes the place of these must say it replaces, besides them.

    What they stand for may still lie there: it must not come back to life with them gone.
    """
    there = set(names)
    return tuple(older for index in indexes for older in index.replaces if index_name(older) in there)


def place(highest: str, replaced: set[str], names: Sequence[str]) -> str:
    """An id for a shard that takes the place of others, so that its rows win and lose against all others as they did.

    Only between rows of equal status and generation does the id decide. The new one lies between the same neighbours as
    the highest of the old ones; that is right for all rows if it replaces one shard, and, if it replaces several, for
    rows that count: they must beat the others' rows, and no row that lost is kept.

    Parameters
    ----------
    highest : of the ids that are replaced
    replaced : all of them
    names : in the ``shards`` folder
    """
    others = sorted(int(shard, 16) for name in names if (shard := shard_of(name)) and shard not in replaced)
    at = int(highest, 16)
    low = max((other for other in others if other < at), default=-1) + 1
    high = min((other for other in others if other > at), default=1 << 64)
    taken = {name.partition(".")[0] for name in names}
    while (found := f"{low + secrets.randbelow(high - low):016x}") in taken:
        pass
    return found


def replaced_shards(folder: Folder, given_up: Collection[str] = ()) -> list[str]:
    """Ids of the shards that others stand for and that are still there, those that stand for others themselves last.

    What a shard stands for is the last that is left of its clips where its own files are gone: that is left out, unless
    the shard is one of those that are ``given_up``.
    """
    there = {shard for name in folder.names() if (shard := shard_of(name))}
    indexes: dict[str, ShardIndex] = {}
    for shard in sorted(there):
        try:
            indexes[shard] = read_index(folder, shard, ["clip_id"])[0]
        except Vanished:  # another process removed it
            continue
    order: dict[str, None] = {}

    def visit(shard: str) -> None:
        for older in indexes[shard].replaces:
            if older in indexes and older not in order:
                visit(older)
                order[older] = None

    for shard, index in indexes.items():
        if not indexes.keys().isdisjoint(index.replaces) and (shard in given_up or is_whole(folder, index)):
            visit(shard)
    return list(order)


def remove_replaced(folder: Folder, given_up: Collection[str] = ()) -> int:
    """Remove the shards that :func:`replaced_shards` gives, the eldest first; say how many there were."""
    old = replaced_shards(folder, given_up)
    for shard in old:
        remove_shard(folder, shard)
    return len(old)


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
        folder.remove(index.root)
