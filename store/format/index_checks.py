"""Checks of an index: it may come from another machine, and its hashes prove nothing about its maker."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from supportset.store.format.shard import ARRAYS, DTYPES

if TYPE_CHECKING:
    from supportset.store.format.index import ShardIndex

_ID = re.compile(r"[0-9a-f]{16}")
_SUFFIX = re.compile(r"\.\w+", re.ASCII)  # of a shard's file or folder
_INNER = re.compile(r"[\w-][\w.-]*", re.ASCII)  # a name in it: not "", ".", ".."


def check_index(index: ShardIndex) -> None:
    """Raise ValueError if a field of the metadata is impossible."""
    texts = (index.shard, index.shard_format, index.recipe_hash, *index.replaces)
    if not all(isinstance(text, str) for text in texts) or not _is_id(index.shard):
        raise ValueError(f"its shard {index.shard!r}, format or recipe is not a name")
    if index.shard in index.replaces or not all(map(_is_id, index.replaces)):
        raise ValueError(f"it replaces {list(index.replaces)[:3]}, which are not ids of other shards")
    if not isinstance(index.provenance, dict):
        raise ValueError("its provenance is not an object")
    sizes = {}
    for file in index.files:
        root, *inner = file.name.split("/")
        suffix = root.removeprefix(index.shard)
        if not _SUFFIX.fullmatch(suffix) or root == suffix or any(_INNER.fullmatch(part) is None for part in inner):
            raise ValueError(f"its file {file.name!r} is not a name of this shard")
        if not _is_count(file.size) or not isinstance(file.xxh3, str) or root != index.root or file.name in sizes:
            raise ValueError(f"its file {file.name!r} has an impossible size or hash, or is repeated")
        sizes[file.name] = file.size
    if index.arrays and index.arrays.keys() != set(ARRAYS):
        raise ValueError(f"its arrays are {sorted(index.arrays)}, not {sorted(ARRAYS)}")
    for name, place in index.arrays.items():
        counts = (place.offset, *place.shape)
        if place.file not in sizes or place.dtype not in DTYPES or not all(map(_is_count, counts)):
            raise ValueError(f"its array {name!r} is in no file of the shard, or has an impossible place")
        if len(place.shape) != (1 if name == "offsets" else 2) or place.offset + place.nbytes > sizes[place.file]:
            raise ValueError(f"its array {name!r} ends beyond its file, or has an impossible shape")


def check_rows(index: ShardIndex, rows: pa.Table) -> None:
    """Raise ValueError for rows that are impossible."""
    found = has_features(rows)
    steps = min((index.arrays[name].shape[0] for name in ("values", "timestamps") if index.arrays), default=1 << 62)
    placed = rows.filter(found)
    columns = ("offset", "checksum", "timestamps_checksum")
    if rows["length"].null_count or pc.any(pc.less(rows["length"], 0)).as_py():
        raise ValueError("a clip has a negative number of steps")
    if any(placed[name].null_count or len(rows) - rows[name].null_count != len(placed) for name in columns):
        raise ValueError("a clip with features has no place or checksum, or one without has")
    if len(placed) and not index.files:
        raise ValueError("states features and no file that holds them")
    if not len(placed):
        return
    if pc.min(placed["offset"]).as_py() < 0:
        raise ValueError("a clip begins before its shard")
    ends = pc.add(placed["offset"], placed["length"])  # neither is larger than the sum of two that fit
    if pc.max(placed["offset"]).as_py() >= 1 << 61 or pc.max(placed["length"]).as_py() >= 1 << 61:
        raise ValueError("a clip ends beyond its shard")
    if (end := pc.max(ends).as_py()) > steps:
        raise ValueError(f"has a clip that ends at step {end} of {steps}")
    if len(pc.unique(rows["clip_id"])) != len(rows):
        raise ValueError("a clip has several rows")


def has_features(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows of an index have features: those with steps, whether ``ok`` or ``damaged``."""
    return pc.greater(rows["length"], 0)


def _is_id(text: object) -> bool:
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 62
