"""Bytes of arrays, and the hash that the store states of every file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from supportset.store.files.folder import Part, Parts, telling


def as_part(array: np.ndarray[Any, Any]) -> memoryview:
    """Bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def part_sizes(parts: Parts) -> int:
    """Number of bytes of a file's parts."""
    return sum(len(part) for part in parts)


def hash_parts(parts: Parts) -> str:
    """``xxh3-128:<hex>`` of a file's parts, as one run of bytes."""
    return hash_pieces(parts)


def hash_pieces(pieces: Iterable[Part]) -> str:
    """``xxh3-128:<hex>`` of bytes that come one piece after the other."""
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return f"xxh3-128:{digest.hexdigest()}"


def hash_file(path: Path) -> str:
    """``xxh3-128:<hex>`` of a file, read in pieces of 4 MiB."""
    digest = xxhash.xxh3_128()
    with telling("read the file", path), open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return f"xxh3-128:{digest.hexdigest()}"
