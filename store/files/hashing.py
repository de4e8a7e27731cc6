"""Bytes of arrays, and hashes of files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from supportset.store.files.folder import Part, Parts, telling


def as_part(array: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of a C-contiguous array as a view."""
    return array.reshape(-1).view(np.uint8).data


def part_sizes(parts: Parts) -> int:
    """Return the number of bytes of a file's parts."""
    return sum(len(part) for part in parts)


def hash_parts(parts: Parts) -> str:
    """Hash the parts of a file: ``xxh3-128:<hex>``."""
    return hash_pieces(parts)


def hash_pieces(pieces: Iterable[Part]) -> str:
    """Hash an iterable of bytes: ``xxh3-128:<hex>``."""
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return f"xxh3-128:{digest.hexdigest()}"


def hash_file(path: Path) -> str:
    """Hash a local file: ``xxh3-128:<hex>``."""
    digest = xxhash.xxh3_128()
    with telling("read the file", path), open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return f"xxh3-128:{digest.hexdigest()}"
