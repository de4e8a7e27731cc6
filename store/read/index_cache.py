"""A cache that makes opening fast: what reading needs of all index files, merged into one file that is mapped.

The index files are the truth. The cache states of which ones it was made (name, size, time of the last change of
each) and ends with a hash of all its bytes: one that is stale or damaged is not used, and is made anew. Deleting it
costs nothing but time.

The file is an Arrow IPC file with one record batch, followed by the 16 bytes of its XXH3-128.
"""

from __future__ import annotations

import json
from contextlib import suppress

import pyarrow as pa
import xxhash

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder
from supportset.store.format.index import ShardIndex, shard_of
from supportset.store.read.clip_table import ClipTable

NAME = ".index.arrow"  # in the feature set's folder; the dot says that it is no part of the format
SHARDS_WORTH_IT = 16  # fewer index files are read in some milliseconds

_METADATA = b"supportset"
_VERSION = 2  # 1 counted kept damaged clips as ok
_HASH_BYTES = 16


def open_clip_table(root: Folder, shards: Folder) -> ClipTable:
    """The clips of a feature set, from the cache where it is right, else from the index files; then it is made anew.

    Parameters
    ----------
    root : the feature set's folder, where the cache lies
    shards : the folder of its shards

    Raises
    ------
    SupportsetError
        From the index files; a cache never raises.
    """
    made_of = _made_of(shards)
    cached = _load(root, made_of)
    # A listing is no snapshot: while a compaction goes on, it may miss the old shards and the new one, and so look like
    # that of a smaller set, whose cache is still there. A second one does not miss the new shard.
    if cached is not None and _made_of(shards) == made_of:
        return cached
    table = ClipTable.read(shards)
    # What was read is what the listing says only where the listing has not changed meanwhile.
    if len(table.indexes) >= SHARDS_WORTH_IT and _made_of(shards) == made_of:
        with suppress(SupportsetError):  # a folder that may only be read: opening stays slow there
            root.put({NAME: [_encode(table, made_of)]})
    return table


def _made_of(shards: Folder) -> str:
    """Hash of the index files' names, sizes and times."""
    digest = xxhash.xxh3_128()
    for name, stamp in sorted(shards.stamps().items()):
        if shard_of(name):
            digest.update(f"{name} {stamp}\n".encode())
    return digest.hexdigest()


def _encode(table: ClipTable, made_of: str) -> memoryview:
    indexes = [{**index.to_json(), "provenance": {}} for index in table.indexes]  # reading needs no provenance
    told = {"version": _VERSION, "made_of": made_of, "statuses": table.statuses, "indexes": indexes}
    columns = table.to_arrow().replace_schema_metadata({_METADATA: json.dumps(told).encode("utf-8")}).combine_chunks()
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
        told = json.loads(table.schema.metadata[_METADATA])
        if told["version"] != _VERSION or told["made_of"] != made_of:
            return None
        return ClipTable.from_arrow(table, [ShardIndex.from_json(index) for index in told["indexes"]], told["statuses"])
    except (SupportsetError, pa.ArrowException, ValueError, KeyError, TypeError):  # of another version, or unreadable
        return None
