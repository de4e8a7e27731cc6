"""Cache for fast opening: the :class:`ClipTable` of a set as one file that is mapped.

The cache records which index files it was made from (name, size and modification time of each), and ends with a hash
of its bytes. A stale or damaged cache is made anew. It can be deleted at any time.

The file is an Arrow IPC file with one record batch, followed by the 16 bytes of its XXH3-128.
"""

from __future__ import annotations

import json
from contextlib import suppress

import pyarrow as pa
import xxhash

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder
from supportset.store.format.card import parse_json
from supportset.store.format.index import ShardIndex, shard_of
from supportset.store.read.clip_table import ClipTable

NAME = ".index.arrow"  # in the feature set's folder; with a dot, as it is not a part of the format
SHARDS_WORTH_IT = 16  # fewer index files are read in some milliseconds

_METADATA = b"supportset"
_VERSION = 2  # 1 counted kept damaged clips as ok
_HASH_BYTES = 16


def open_clip_table(root: Folder, shards: Folder) -> ClipTable:
    """Read the clips of a feature set, from a valid cache or from the index files; then write the cache.

    Parameters
    ----------
    root : Folder
        Folder of the feature set, which holds the cache.
    shards : Folder
        Folder of its shards.

    Raises
    ------
    SupportsetError
        An index file is damaged; a damaged cache is no error.
    """
    made_of = _made_of(shards)
    cached = _load(root, made_of)
    # A listing is not a snapshot: during a compaction it may miss the old shards and the new one, and so equal that of
    # a smaller set, whose cache still exists. A second listing does not miss the new shard.
    if cached is not None and _made_of(shards) == made_of:
        return cached
    table = ClipTable.read(shards)
    # Valid only if the listing did not change meanwhile.
    if len(table.indexes) >= SHARDS_WORTH_IT and _made_of(shards) == made_of:
        with suppress(SupportsetError):  # a read-only folder: opening stays slow
            root.put({NAME: [_encode(table, made_of)]})
    return table


def _made_of(shards: Folder) -> str:
    """Hash of names, sizes and times of the index files and the manifest."""
    digest = xxhash.xxh3_128()
    for name, stamp in sorted(shards.stamps().items()):
        if shard_of(name) or name.endswith(".json"):  # index files and manifest entries
            digest.update(f"{name} {stamp}\n".encode())
    return digest.hexdigest()


def _encode(table: ClipTable, made_of: str) -> memoryview:
    indexes = [{**index.to_json(), "provenance": {}} for index in table.indexes]  # reading needs no provenance
    about = {"version": _VERSION, "made_of": made_of, "statuses": table.statuses, "indexes": indexes}
    columns = table.to_arrow().replace_schema_metadata({_METADATA: json.dumps(about).encode("utf-8")}).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, columns.schema) as writer:
        writer.write_table(columns)
    written = memoryview(sink.getvalue())
    return memoryview(b"".join([written, xxhash.xxh3_128_digest(written)]))


def _load(root: Folder, made_of: str) -> ClipTable | None:
    try:
        size = root.size(NAME)
        if size is None or size <= _HASH_BYTES:
            return None
        file = root.map(NAME)
        file.ask([(0, size)])
        file.fetch([(0, size)])
        content = file.content[:-_HASH_BYTES]
        if xxhash.xxh3_128_digest(content) != bytes(file.content[-_HASH_BYTES:]):
            return None
        table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        about = parse_json(table.schema.metadata[_METADATA])
        if about["version"] != _VERSION or about["made_of"] != made_of:
            return None
        return ClipTable.from_arrow(
            table, [ShardIndex.from_json(index) for index in about["indexes"]], about["statuses"]
        )
    except (
        SupportsetError,
        pa.ArrowException,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):
        return None
