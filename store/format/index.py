"""Index files: one Parquet file a shard. Its presence is the commit.

The rows give the outcome of each clip. The metadata lists the files of the shard, with size and hash, and the location
of its arrays. :func:`effective` is the rule that selects one of several rows of a clip.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from supportset._process import cores
from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, hash_parts, part_sizes
from supportset.store.format.card import check_format, parse_json
from supportset.store.format.index_checks import check_index, check_rows, has_features
from supportset.store.format.manifest import Entry, entry_name, lost_shards, put_entry
from supportset.store.format.parquet import open_parquet
from supportset.store.format.row_hash import hash_rows
from supportset.store.format.shard import EncodedShard, Location
from supportset.store.format.status import DAMAGED, OK

FORMAT = "supportset-shard-index"
FORMAT_VERSION = 1
METADATA = b"supportset"
METADATA_HASH = b"supportset_hash"

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),  # first row in the shard's arrays; null for a failure
        pa.field("length", pa.int64(), nullable=False),  # rows; 0 for a failure
        pa.field("checksum", pa.uint64()),  # xxh3-64 of the clip's rows of `values`
        pa.field("timestamps_checksum", pa.uint64()),  # the same of `timestamps`
        pa.field("source_path", pa.string()),
        pa.field("source_size", pa.int64()),
        pa.field("source_mtime_ns", pa.int64()),
        pa.field("source_hash", pa.string()),
        pa.field("seconds", pa.float64(), nullable=False),  # spent on the clip
        pa.field("generation", pa.int64(), nullable=False),  # 0, and one more with each retry
    ]
)

_THREADS = min(8, cores())  # that parse index files side by side
_NAME = re.compile(r"([0-9a-f]{16})\.parquet")


FIX = "restore the file, or run `store verify --drop-damaged` and then the same `extract` again"


class Vanished(SupportsetError):  # noqa: N818 - not an error by itself
    """An index file was listed, and no longer exists."""


class DamagedIndex(SupportsetError):  # noqa: N818 - an error by its base
    """An index file is damaged, or its content is impossible."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a shard: name relative to the ``shards`` folder, size in bytes, hash as ``xxh3-128:<hex>``."""

    name: str
    size: int
    xxh3: str


@dataclass(frozen=True)
class ShardIndex:
    """Metadata of an index file.

    Attributes
    ----------
    shard : str
        Id, 16 hex digits.
    shard_format : str
        ``zarr`` or ``hdf5``.
    recipe_hash : str
        Hash of the recipe in the card.
    files : tuple of StoredFile
        The shard's files; empty if no clip has features.
    arrays : dict
        Location of ``values``, ``timestamps`` and ``offsets``; empty for an archive, and without files.
    replaces : tuple of str
        Ids of the shards that this one replaces: readers ignore their index files.
    provenance : dict
        Versions, devices and so on of the run that wrote the shard.
    """

    shard: str
    shard_format: str
    recipe_hash: str
    files: tuple[StoredFile, ...] = ()
    arrays: dict[str, Location] = field(default_factory=dict)
    replaces: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """Name of the shard's file or folder; only where it has files."""
        return self.files[0].name.partition("/")[0]

    def file(self, name: str) -> StoredFile:
        """Return the entry of one of the files."""
        return next(file for file in self.files if file.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "shard": self.shard,
            "shard_format": self.shard_format,
            "recipe_hash": self.recipe_hash,
            "files": [vars(file) for file in self.files],
            "arrays": {name: location.to_json() for name, location in self.arrays.items()},
            "replaces": list(self.replaces),
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ShardIndex:
        """Inverse of :meth:`to_json`."""
        index = cls(
            shard=data["shard"],
            shard_format=data["shard_format"],
            recipe_hash=data["recipe_hash"],
            files=tuple(StoredFile(file["name"], file["size"], file["xxh3"]) for file in data["files"]),
            arrays={name: Location.from_json(location) for name, location in data["arrays"].items()},
            replaces=tuple(data["replaces"]),
            provenance=data["provenance"],
        )
        check_index(index)
        return index


def new_shard_id() -> str:
    """Make a random 64-bit id, as 16 hex digits."""
    return secrets.token_hex(8)


def index_name(shard: str) -> str:
    """Return the name of a shard's index file."""
    return f"{shard}.parquet"


def shard_of(name: str) -> str | None:
    """Return the id of the shard whose index file has this name, None for other files."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def describe(encoded: EncodedShard) -> tuple[StoredFile, ...]:
    """Return sizes and hashes of an encoded shard's files."""
    return tuple(StoredFile(name, part_sizes(parts), hash_parts(parts)) for name, parts in encoded.files.items())


def write_index(folder: Folder, index: ShardIndex, rows: pa.Table) -> None:
    """Commit a shard: when this returns, its rows are visible and survive a power cut."""
    rows = rows.select(SCHEMA.names).cast(SCHEMA)
    content = json.dumps({**index.to_json(), "rows": hash_rows(rows)}, sort_keys=True).encode("utf-8")
    metadata = {METADATA: content, METADATA_HASH: hash_parts([content]).encode("ascii")}
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata(metadata), sink)
    written = memoryview(sink.getvalue())
    folder.put({index_name(index.shard): [written]})
    put_entry(folder, index.shard, Entry.of_index(written))
    if folder.size(index_name(index.shard)) is None:  # a compaction has merged the shard meanwhile
        folder.remove(entry_name(index.shard))


def read_index(folder: Folder, shard: str, columns: list[str] | None = None) -> tuple[ShardIndex, pa.Table]:
    """Read an index file, or some of its columns.

    Raises
    ------
    SupportsetError
        The file is damaged (the rows are checked if all columns are read), or its format version is newer.
    Vanished
        The file no longer exists, as after a compaction by another process.
    """
    return parse_index(folder, shard, folder.read(index_name(shard)), columns)


def parse_index(
    folder: Folder, shard: str, content: bytes | None, columns: list[str] | None = None
) -> tuple[ShardIndex, pa.Table]:
    """Parse the content of an index file. Parameters and errors as in :func:`read_index`."""
    name = index_name(shard)
    if content is None:
        raise Vanished(f"{folder}/{name}: the index file is listed but cannot be read: remove the broken link")
    try:
        table = open_parquet(content).read(columns, use_threads=False)
        metadata = table.schema.metadata or {}
        data = parse_json(metadata[METADATA])
        check_format(data, FORMAT, FORMAT_VERSION, f"{folder}/{name}")
        if metadata[METADATA_HASH] != hash_parts([metadata[METADATA]]).encode("ascii"):
            raise ValueError("its metadata do not match their hash")
        index = ShardIndex.from_json(data)
        table = table.select(columns or SCHEMA.names).replace_schema_metadata(None)
        for column in table.schema:
            if column.type != (expected := SCHEMA.field(column.name).type):
                raise ValueError(f"its column {column.name} is of type {column.type}, not {expected}")
        if columns is None and hash_rows(table) != data["rows"]:
            raise ValueError("its rows do not match their hash")
        if columns is None:
            check_rows(index, table)
        table = _with_damaged(table)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedIndex(f"{folder}/{name}: damaged index file ({reason}): {FIX}") from None
    if index.shard != shard:
        raise SupportsetError(f"{folder}/{name}: is the index of shard {index.shard}: rename it back")
    return index, table


def _with_damaged(rows: pa.Table) -> pa.Table:
    """Give kept damaged clips their status: before 0.2.0 they were ``ok``, with ``damaged: `` before the message."""
    if not {"status", "message"} <= set(rows.column_names):
        return rows
    prefix = f"{DAMAGED}: "
    old = pc.and_(pc.equal(rows["status"], OK), pc.starts_with(rows["message"], prefix))
    if not pc.any(old).as_py():
        return rows
    said = pc.if_else(old, pc.utf8_slice_codeunits(rows["message"], len(prefix)), rows["message"])
    for name, column in (("status", pc.if_else(old, DAMAGED, rows["status"])), ("message", said)):
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    return rows


def read_all(
    folder: Folder, columns: list[str] | None = None, *, allow_lost: bool = False
) -> tuple[list[ShardIndex], list[pa.Table]]:
    """Read every index file that counts, or some columns of each, in the order of shard ids.

    A compaction may run at the same time. A listing is not a snapshot: it may miss both a shard that is being removed
    and the shard that just replaced it. So the folder is listed until nothing new is found.

    Raises
    ------
    SupportsetError
        An index file is damaged, or missing by the manifest (unless ``allow_lost``).
    """
    found: dict[str, tuple[ShardIndex, pa.Table]] = {}
    vanished: dict[str, int] = {}
    while True:
        names = folder.names()
        new = [shard for name in names if (shard := shard_of(name)) and shard not in found]
        if not new:
            break
        with ThreadPoolExecutor(_THREADS) as pool:
            contents = folder.read_many([index_name(shard) for shard in new])
            parsing = [pool.submit(parse_index, folder, *item, columns) for item in zip(new, contents, strict=True)]
        for shard, parsed in zip(new, parsing, strict=True):
            try:
                found[shard] = parsed.result()
            except Vanished:  # removed since the listing, and replaced by another shard: list again
                vanished[shard] = vanished.get(shard, 0) + 1
                if vanished[shard] == 3:  # still listed: a broken link
                    raise
    refuse_cycles(folder, [index for index, _ in found.values()])
    replaced = {shard for index, _ in found.values() for shard in index.replaces}
    if not allow_lost and (lost := lost_shards(folder, names, found.keys() | replaced)):
        raise SupportsetError(lost_index(folder, lost[0]))
    counted = [found[shard] for shard in sorted(found) if shard not in replaced]
    return [index for index, _ in counted], [table for _, table in counted]


def lost_index(folder: Folder, shard: str) -> str:
    """Say that the index of a shard is missing."""
    return f"{folder}/{index_name(shard)}: the index file is missing: {FIX}"


def refuse_cycles(folder: Folder, indexes: Iterable[ShardIndex]) -> None:
    """Raise SupportsetError if shards replace each other in a circle: then none of them would count."""
    older = {index.shard: index.replaces for index in indexes}
    try:
        TopologicalSorter({shard: [each for each in older[shard] if each in older] for shard in older}).prepare()
    except CycleError as error:
        raise DamagedIndex(
            f"{folder}/{index_name(error.args[1][0])}: damaged index file (shards that replace each other): {FIX}"
        ) from None


def effective(table: pa.Table, shard: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Select one row a clip: features before failures, then the higher generation, then the higher shard id.

    Parameters
    ----------
    table : pyarrow.Table
        Rows with at least ``clip_id``, ``length`` and ``generation``.
    shard : (rows,) array
        The rank of each row's shard id.

    Returns
    -------
    (clips,) int64
        Row numbers, ordered by the first appearance of each clip.
    """
    clip = table["clip_id"].combine_chunks().dictionary_encode()
    code = clip.indices.to_numpy(zero_copy_only=False)
    if len(clip.dictionary) == len(code):
        return np.arange(len(code))
    features = has_features(table).to_numpy(zero_copy_only=False)
    generation = table["generation"].to_numpy()
    order = np.lexsort((shard, generation, features, code))
    last = np.flatnonzero(np.diff(code[order], append=-1))
    return order[last]
