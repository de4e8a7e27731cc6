"""Shards as Zarr v3 groups.

``values`` and ``timestamps`` are one Zarr shard each, the file ``c.0.0``. Its inner chunks hold at most 256 rows of
all columns. They follow each other without compression or checksum: together they are the array in C order, padded to
full chunks. The shard index is at the end. Other Zarr readers fetch 256 rows at a time; this package maps the file.

This module lays out the files itself. So the store's write path, which flushes and is tested against a fault at every
step, writes each file in one piece; the shard is copied once, not three times; and no event-loop thread stays in the
writer. The tests open the files with zarr-python, and read files that zarr-python wrote.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
from google_crc32c import value as crc32c

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, Parts, as_part, fetched
from supportset.store.format.card import parse_json
from supportset.store.format.shard import ARRAYS, Array, Compression, EncodedShard, Location, ShardArrays, ShardFormat

ROWS_PER_CHUNK = 256

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_DIMENSIONS = {"values": ["step", "feature"], "timestamps": ["step", "start_end"], "offsets": ["clip"]}


class ZarrFormat(ShardFormat):
    """Zarr v3: suits object stores, and is readable from many languages."""

    name = "zarr"
    suffix = ".zarr"
    codec = "zstd"

    def encode(self, shard: str, arrays: ShardArrays, compression: Compression | None = None) -> EncodedShard:
        """Encode the group's files."""
        root = self.root(shard)
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"format": "supportset-shard"}}
        files: dict[str, Parts] = {f"{root}/zarr.json": [_json(group)]}
        locations = {}
        for name, array in arrays.items():
            metadata, parts = _sharded(array) if array.ndim == 2 else _one_chunk(array)
            if compression:
                metadata, parts = _compressed(array, metadata, compression)
            metadata["dimension_names"] = _DIMENSIONS[name]
            key = f"{root}/{name}/c" + ".0" * array.ndim
            files[f"{root}/{name}/zarr.json"] = [_json(metadata)]
            files[key] = parts
            if not compression:
                locations[name] = Location(key, 0, array.dtype.name, array.shape)
        return EncodedShard(files, locations)

    def is_compressed(self, folder: Folder, shard: str, compression: Compression) -> bool:
        """Compare the codecs in ``zarr.json``."""
        for name in ARRAYS:
            node = f"{self.root(shard)}/{name}"
            metadata, _ = self._metadata(folder, shard, node)
            try:
                packing = _blosc(compression, np.dtype(metadata["data_type"]).itemsize)
                if _innermost(metadata) != [_BYTES, packing]:
                    return False
            except (KeyError, TypeError, IndexError) as error:
                raise SupportsetError(f"{folder}/{node}/zarr.json: damaged ({error!r}): restore the file") from None
        return True

    def locate(self, folder: Folder, shard: str) -> dict[str, Location]:
        """Locate the arrays by ``zarr.json`` and the shard index."""
        return {name: self._locate(folder, shard, name) for name in ARRAYS}

    def decode(self, folder: Folder, shard: str, name: str) -> Array:
        """Read an array with zarr-python."""
        import zarr  # here: only archives need it, and its import is slow
        from zarr.core.buffer import cpu
        from zarr.storage import MemoryStore

        node = f"{self.root(shard)}/{name}"
        metadata, key = self._metadata(folder, shard, node)
        content = {
            "zarr.json": json.dumps(metadata).encode("ascii"),
            key: bytes(self._data(folder, shard, f"{node}/{key}")),
        }
        store = MemoryStore({file: cpu.Buffer.from_bytes(data) for file, data in content.items()}, read_only=True)
        try:
            array: Array = np.asarray(zarr.open_array(store, mode="r")[...])
        except (ValueError, RuntimeError, TypeError, KeyError) as error:
            raise SupportsetError(f"{folder}/{node}: not readable with zarr ({error}): restore the folder") from None
        return array

    def _locate(self, folder: Folder, shard: str, name: str) -> Location:
        node = f"{self.root(shard)}/{name}"
        metadata, key = self._metadata(folder, shard, node)
        data = self._data(folder, shard, f"{node}/{key}")
        try:
            location = Location(f"{node}/{key}", 0, metadata["data_type"], tuple(metadata["shape"]))
            offset = _run_start(metadata, data, location)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise SupportsetError(f"{folder}/{node}/zarr.json: damaged ({error!r}): restore the file") from None
        if offset is None or offset + location.nbytes > len(data):
            raise SupportsetError(f"{folder}/{node}/{key}: compressed or not contiguous, so it cannot be mapped")
        return replace(location, offset=offset)

    def _metadata(self, folder: Folder, shard: str, node: str) -> tuple[dict[str, Any], str]:
        content = folder.read(f"{node}/zarr.json")
        if content is None:
            raise self.missing(folder, f"{node}/zarr.json", shard)
        try:
            metadata = parse_json(content)
            chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            if any(size < extent for size, extent in zip(chunk, metadata["shape"], strict=True)):
                raise ValueError("more than one chunk file")  # a missing one would read as zeros
            return metadata, _chunk_key(metadata["chunk_key_encoding"], len(metadata["shape"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SupportsetError(f"{folder}/{node}/zarr.json: damaged ({error!r}): restore the file") from None

    def _data(self, folder: Folder, shard: str, name: str) -> memoryview:
        if not folder.size(name):
            raise self.missing(folder, name, shard)
        return fetched(folder.map(name))


FORMAT = ZarrFormat()


def _sharded(array: Array) -> tuple[dict[str, Any], Parts]:
    """An array as one shard of inner chunks, of equal size so that there is little padding."""
    rows, columns = array.shape
    chunks = math.ceil(rows / ROWS_PER_CHUNK)
    inner = math.ceil(rows / chunks)
    chunks = math.ceil(rows / inner)
    size = inner * columns * array.itemsize
    index = b"".join(struct.pack("<QQ", i * size, size) for i in range(chunks))
    padding = bytes(chunks * size - array.nbytes)
    sharding = {
        "chunk_shape": [inner, columns],
        "codecs": [_BYTES],
        "index_codecs": [_BYTES, _CRC32C],
        "index_location": "end",
    }
    codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    metadata = _array_metadata(array, [chunks * inner, columns], codecs)
    return metadata, [as_part(array), padding, index, struct.pack("<I", crc32c(index))]


def _one_chunk(array: Array) -> tuple[dict[str, Any], Parts]:
    return _array_metadata(array, list(array.shape), [_BYTES]), [as_part(array)]


def _compressed(array: Array, metadata: dict[str, Any], compression: Compression) -> tuple[dict[str, Any], Parts]:
    """The same layout with compressed chunks, written by zarr-python."""
    import zarr  # here: see decode
    from zarr.core.buffer import Buffer, cpu
    from zarr.storage import MemoryStore

    _innermost(metadata).append(_blosc(compression, array.itemsize))
    content: dict[str, Buffer] = {"zarr.json": cpu.Buffer.from_bytes(_json(metadata))}
    with zarr.config.set({"array.write_empty_chunks": True}):  # a missing chunk would read as zeros
        zarr.open_array(MemoryStore(content), mode="r+")[...] = array
    (data,) = (content[name].to_bytes() for name in content if name != "zarr.json")
    return metadata, [data]


def _blosc(compression: Compression, itemsize: int) -> dict[str, Any]:
    """Metadata of the codec: every Zarr library has it, and it shuffles bytes before it compresses."""
    settings = {"cname": compression.codec, "clevel": compression.level, "shuffle": "shuffle"}
    return {"name": "blosc", "configuration": {**settings, "typesize": itemsize, "blocksize": 0}}


def _innermost(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """Codecs of the inner chunks, or of the only chunk."""
    codecs: list[dict[str, Any]] = metadata["codecs"]
    return codecs[0]["configuration"]["codecs"] if codecs[0]["name"] == "sharding_indexed" else codecs


def _array_metadata(array: Array, chunk_shape: list[int], codecs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(array.shape),
        "data_type": array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        # "c.0.0", not "c/0/0": a folder less to flush for each array
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0 if array.dtype.kind in "iu" else 0.0,
        "codecs": codecs,
        "attributes": {},
    }


def _run_start(metadata: dict[str, Any], data: memoryview, location: Location) -> int | None:
    """Offset of the array in its chunk file; None if it is compressed or not contiguous."""
    chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    codec, *after = metadata["codecs"]
    rows, *columns = location.shape
    if chunk[1:] != columns or any(later["name"] != "crc32c" for later in after):
        return None
    if codec["name"] != "sharding_indexed":
        return 0 if codec == _BYTES else None
    sharding = codec["configuration"]
    inner = sharding["chunk_shape"]
    if sharding["codecs"] != [_BYTES] or inner[1:] != columns:
        return None
    index = _shard_index(sharding, data, chunk[0] // inner[0])
    size = location.view_dtype.itemsize * int(np.prod(inner))
    if index is None:
        return None
    wanted = index[: math.ceil(rows / inner[0])].astype(object)  # exact: offsets fill 64 bits
    starts = [int(wanted[0, 0]) + i * size for i in range(len(wanted))]
    return starts[0] if wanted.tolist() == [[start, size] for start in starts] else None


def _shard_index(sharding: dict[str, Any], data: memoryview, chunks: int) -> Array | None:
    """Offset and size of each inner chunk, (chunks, 2) uint64; None if the shard index is damaged."""
    length = 16 * chunks
    checksum = 4 * any(codec["name"] == "crc32c" for codec in sharding["index_codecs"])
    at_end = sharding.get("index_location", "end") == "end"
    stored = bytes(data[-length - checksum :] if at_end else data[: length + checksum])
    if len(stored) != length + checksum:
        return None
    if checksum and crc32c(stored[:length]) != struct.unpack("<I", stored[length:])[0]:
        return None
    return np.frombuffer(stored, "<u8", 2 * chunks).reshape(chunks, 2)


def _chunk_key(encoding: dict[str, Any], dimensions: int) -> str:
    separator = encoding.get("configuration", {}).get("separator", "/" if encoding["name"] == "default" else ".")
    prefix = ["c"] if encoding["name"] == "default" else []
    return separator.join(prefix + ["0"] * dimensions)


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, indent=2).encode("ascii")
