"""Shards as Zarr v3 groups.

``values`` and ``timestamps`` are one Zarr shard each (the file ``c.0.0``), whose inner chunks, at most 256 rows of
all columns, lie side by side without compression or checksum: together they are the array in C order, padded to
whole chunks, and the shard index follows them. Any Zarr reader fetches slices of 256 rows; ours maps the file.

The files are laid out here, not by zarr-python: each goes to disk in one piece by the store's own write path, which
flushes it and can be tested against a fault at every step; no event-loop thread is left in the writer, and the
shard is not copied three times. The tests open them with zarr-python, and read what zarr-python writes.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

from store.errors import SupportsetError
from store.files import Folder, Parts, as_part
from store.shard import ARRAYS, Array, EncodedShard, Location, ShardArrays, ShardFormat

ROWS_PER_CHUNK = 256
ABSENT = 2**64 - 1  # offset and size of an inner chunk that was not written

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_DIMENSIONS = {"values": ["step", "feature"], "timestamps": ["step", "start_end"], "offsets": ["clip"]}


class ZarrFormat(ShardFormat):
    """Zarr v3: kind to cloud storage and to every language."""

    name = "zarr"
    suffix = ".zarr"

    def encode(self, shard: str, arrays: ShardArrays) -> EncodedShard:
        """Lay out the group's files."""
        root = self.root(shard)
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"format": "supportset-shard"}}
        files: dict[str, Parts] = {f"{root}/zarr.json": [_json(group)]}
        locations = {}
        for name, array in arrays.items():
            metadata, parts = _sharded(array) if array.ndim == 2 else _one_chunk(array)
            metadata["dimension_names"] = _DIMENSIONS[name]
            key = f"{root}/{name}/c" + ".0" * array.ndim
            files[f"{root}/{name}/zarr.json"] = [_json(metadata)]
            files[key] = parts
            locations[name] = Location(key, 0, array.dtype.name, array.shape)
        return EncodedShard(files, locations)

    def locate(self, folder: Folder, shard: str) -> dict[str, Location]:
        """Find the arrays' bytes from ``zarr.json`` and the shard index."""
        return {name: self._locate(folder, shard, name) for name in ARRAYS}

    def _locate(self, folder: Folder, shard: str, name: str) -> Location:
        node = f"{self.root(shard)}/{name}"
        content = folder.read(f"{node}/zarr.json")
        if content is None:
            raise self.absent(f"{node}/zarr.json", shard)
        try:
            metadata = json.loads(content)
            shape = tuple(metadata["shape"])
            chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            (codec, *after) = metadata["codecs"]
            key = f"{node}/{_chunk_key(metadata['chunk_key_encoding'], len(shape))}"
            location = Location(key, 0, metadata["data_type"], shape)
        except (ValueError, KeyError, TypeError) as error:
            raise SupportsetError(f"{node}/zarr.json: damaged ({error!r}): restore the file") from None
        data = folder.map(key) if folder.size(key) else None
        if data is None:
            raise self.absent(key, shard)
        one_chunk = all(size <= extent for size, extent in zip(shape, chunk, strict=True))
        only_checksums = [later for later in after if later["name"] != "crc32c"] == []
        if codec["name"] == "sharding_indexed" and one_chunk and only_checksums:
            offset = _run_start(codec["configuration"], data, location, chunk)
        else:
            whole_rows = list(shape[1:]) == list(chunk[1:])
            offset = 0 if codec == _BYTES and one_chunk and only_checksums and whole_rows else None
        if offset is None or offset + location.nbytes > len(data):
            raise SupportsetError(f"{key}: not uncompressed and in one run, so it cannot be mapped into memory")
        return Location(key, offset, location.dtype, shape)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes; for shard indexes, which are short."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _crc_entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_TABLE = [_crc_entry(byte) for byte in range(256)]


def _sharded(array: Array) -> tuple[dict[str, Any], Parts]:
    """An array of rows as one shard of inner chunks, equal in size so that little padding follows the last row."""
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


def _array_metadata(array: Array, chunk_shape: list[int], codecs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(array.shape),
        "data_type": array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        # "c.0.0", not "c/0/0": a folder less to flush for each array
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0 if array.dtype.kind == "i" else 0.0,
        "codecs": codecs,
        "attributes": {},
    }


def _run_start(sharding: dict[str, Any], data: memoryview, location: Location, chunk: list[int]) -> int | None:
    """Offset of the first inner chunk where all inner chunks are there, uncompressed, in order, side by side."""
    inner = sharding["chunk_shape"]
    if sharding["codecs"] != [_BYTES] or inner[1:] != chunk[1:] or list(location.shape[1:]) != inner[1:]:
        return None
    count = chunk[0] // inner[0]
    checksums = sum(codec["name"] == "crc32c" for codec in sharding["index_codecs"])
    length = 16 * count + 4 * checksums
    index = bytes(data[-length:] if sharding.get("index_location", "end") == "end" else data[:length])
    if len(index) != length or (checksums and crc32c(index[: 16 * count]) != struct.unpack("<I", index[-4:])[0]):
        return None
    table = np.frombuffer(index, "<u8", 2 * count).reshape(count, 2)[: math.ceil(location.shape[0] / inner[0])]
    size = location.view_dtype.itemsize * int(np.prod(inner))
    if (table == ABSENT).any() or (table[:, 1] != size).any() or (np.diff(table[:, 0].astype(np.int64)) != size).any():
        return None
    return int(table[0, 0])


def _chunk_key(encoding: dict[str, Any], dimensions: int) -> str:
    separator = encoding.get("configuration", {}).get("separator", "/" if encoding["name"] == "default" else ".")
    prefix = ["c"] if encoding["name"] == "default" else []
    return separator.join(prefix + ["0"] * dimensions)


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, indent=2).encode("ascii")
