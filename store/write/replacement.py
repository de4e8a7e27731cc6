"""Replacement of shards by new ones, for conversion, compaction and repair.

The new shard is committed first. Its index lists the shards that it replaces; from then on readers ignore those. They
are removed afterwards, the oldest first. An interruption at any step loses nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace as changed
from typing import Any

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
    refuse_cycles,
    shard_of,
    write_index,
)
from supportset.store.format.manifest import Entry, entry_name, put_entry
from supportset.store.format.registry import shard_format
from supportset.store.format.shard import ARRAYS, Array, Compression, ShardArrays


class DamagedShard(SupportsetError):  # noqa: N818 - not an error by itself
    """The files of a shard are not those of its index."""


def checked_arrays(folder: Folder, index: ShardIndex, rows: pa.Table, then: str) -> ShardArrays:
    """Map the arrays of a shard, and compare each clip with its checksums.

    Parameters
    ----------
    folder : Folder
        The ``shards`` folder.
    index : ShardIndex
        Index of a shard that has files.
    rows : pyarrow.Table
        Rows of the index; only these clips are compared.
    then : str
        End of the message: what to do after the shard is restored.

    Raises
    ------
    DamagedShard
        A file is missing or has another size, or a clip does not match its checksums.
    """
    there = folder.files(index.root)
    for file in index.files:
        if (size := there.get(file.name)) != file.size:
            fault = "is missing" if size is None else f"has {size} bytes, its index says {file.size}"
            raise DamagedShard(f"{folder}/{file.name}: the shard file {fault}: restore it, then {then}")
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
            f"{folder}/{index.root}: the features of clip {clip_id!r} do not match their checksum: "
            f"restore the shard, then {then}"
        )
    return arrays


def intact(rows: pa.Table, values: Array, timestamps: Array) -> Array:
    """Compare the features of each row with its checksums.

    Parameters
    ----------
    rows : pyarrow.Table
        Of a shard's index.
    values : ndarray
        The shard's arrays, or as many rows of them as there are.
    timestamps : ndarray
        The shard's arrays, or as many rows of them as there are.

    Returns
    -------
    (rows,) bool
        True for rows without features.
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
    """Concatenate the features of rows of several shards.

    Parameters
    ----------
    parts : sequence of tuple of (pyarrow.Table, ndarray, ndarray)
        Rows of a shard's index, its ``values`` and its ``timestamps``.

    Returns
    -------
    rows : all of them
        In the order given, with their offsets in the new arrays.
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


def merged_provenance(all_of_them: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge the provenance of the runs that computed the features: one, or a list of several."""
    distinct: list[dict[str, Any]] = []
    for provenance in all_of_them:
        distinct += [each for each in provenance.get("merged", [provenance]) if each not in distinct]
    return distinct[0] if len(distinct) == 1 else {"merged": distinct}


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
    folder : Folder
        The ``shards`` folder.
    index : ShardIndex
        With everything set but ``files`` and ``arrays``.
    rows : pyarrow.Table
        Of its index.
    arrays : ShardArrays or None
        What its clips have; None where none of them has features.
    compression : Compression, optional
        Makes the shard an archive.

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
        put_entry(folder, index.shard, Entry())
        if arrays is not None:
            encoded = target.encode(index.shard, arrays, compression)
            index = changed(index, files=describe(encoded), arrays=encoded.arrays)
            folder.put(encoded.files)
        for file in index.files:  # as read back from the disk: other shards are removed because of them
            if hash_pieces(folder.pieces(file.name)) != file.xxh3:
                raise SupportsetError(f"{folder}/{file.name}: does not read back as written: check the disk")
        write_index(folder, index, rows)
        if not (is_complete(folder, index) or folder.size(index_name(index.shard)) is None):
            # The process was suspended so long that `store compact` removed its files: see FeatureWriter.
            put_entry(folder, index.shard, Entry())
            folder.remove(index_name(index.shard))  # the shards that it replaces count again
            raise SupportsetError(
                f"{folder}/{target.root(index.shard)}: was removed while it was being written: run again"
            )
    except SupportsetError:
        # No reader sees a shard without an index. But the index may exist although flushing the folder failed: then
        # the shard must stay.
        with suppress(SupportsetError):
            if folder.size(index_name(index.shard)) is None:
                folder.remove(target.root(index.shard))
                folder.remove(entry_name(index.shard))
        raise
    return index


def is_complete(folder: Folder, index: ShardIndex) -> bool:
    """Tell whether all files of a shard exist, with the sizes in its index."""
    return are_complete(folder, index.files)


def are_complete(folder: Folder, files: Sequence[StoredFile]) -> bool:
    """Tell whether all these files of one shard exist with these sizes, by one listing."""
    there = folder.files(files[0].name.partition("/")[0]) if files else {}
    return all(there.get(file.name) == file.size for file in files)


def still_replaced(indexes: Iterable[ShardIndex], names: Iterable[str]) -> tuple[str, ...]:
    """Return the shards that these replace and that still exist: their replacement must list them too."""
    there = set(names)
    return tuple(older for index in indexes for older in index.replaces if index_name(older) in there)


def place(highest: str, replaced: set[str], names: Sequence[str]) -> str:
    """Choose an id for a shard that replaces others, so that its rows keep their precedence.

    The id decides only between rows of equal status and generation. The new id sorts between the same neighbours as the
    highest replaced one. That is right for all rows if it replaces one shard. If it replaces several, it is right for
    rows that count, and no others are kept.

    Parameters
    ----------
    highest : str
        Highest of the replaced ids.
    replaced : set of str
        All replaced ids.
    names : sequence of str
        Names in the ``shards`` folder.
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
    """Return the ids of the replaced shards that still exist, those that replace others last.

    If files of the replacing shard are missing, the replaced shards hold the last copy of its clips: they are not
    returned, unless the replacing shard is one of ``given_up``.
    """
    there = {shard for name in folder.names() if (shard := shard_of(name))}
    indexes: dict[str, ShardIndex] = {}
    for shard in sorted(there):
        try:
            indexes[shard] = read_index(folder, shard, ["clip_id"])[0]
        except Vanished:  # another process removed it
            continue
    refuse_cycles(folder, indexes.values())
    order: dict[str, None] = {}

    def visit(shard: str) -> None:
        for older in indexes[shard].replaces:
            if older in indexes and older not in order:
                visit(older)
                order[older] = None

    for shard, index in indexes.items():
        if not indexes.keys().isdisjoint(index.replaces) and (shard in given_up or is_complete(folder, index)):
            visit(shard)
    return list(order)


def remove_replaced(folder: Folder, given_up: Collection[str] = ()) -> int:
    """Remove the shards that :func:`replaced_shards` returns, the oldest first; return their number."""
    old = replaced_shards(folder, given_up)
    for shard in old:
        remove_shard(folder, shard)
    return len(old)


def remove_shard(folder: Folder, shard: str) -> None:
    """Remove a shard: first its index, so that no reader sees an index without files; its manifest entry last.

    Parameters
    ----------
    folder : Folder
        The ``shards`` folder.
    shard : str
        Id of a replaced shard.
    """
    try:
        index, _ = read_index(folder, shard, ["clip_id"])
    except Vanished:
        return
    put_entry(folder, shard, Entry())
    folder.remove(index_name(shard))
    if index.files:
        folder.remove(index.root)
    folder.remove(entry_name(shard))
