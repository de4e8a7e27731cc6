"""Embeddings of clips and of their parts, kept beside a run or in the user's cache.

All is found by the content of clips (`supportset.search.kept.rows`): a clip that is added, changed or gone leaves what
is kept of the others as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.kept.rows import KeptRows, Rows, keep_rows, with_repair
from supportset.search.parts import WINDOW_S, part_blocks
from supportset.search.retriever import whole_clips
from supportset.search.step_index import Codes
from supportset.store.files import hash_parts

if TYPE_CHECKING:
    from supportset.search.retriever import Clips, Retriever
    from supportset.store.read.aligned import AlignedFeatures

_BACKGROUND = 256  # clips whose parts say what unrelated footage scores
_STEPS = 1 << 22  # numbers of features in memory at once


def key_of(retriever: Retriever, features: AlignedFeatures) -> str:
    """Hash of what decides the embeddings of all clips and parts besides their content."""
    recipes = [each.card.recipe.hash for each in features.sets]
    lines = ["codes 1", f"windows of {WINDOW_S} s", *retriever.key(), *recipes]
    return hash_parts([f"{line}\n".encode("utf-8", "surrogateescape") for line in lines])


def kept_parts(retriever: Retriever, clips: Clips, in_memory: bool = False) -> KeptRows:
    """Codes of the parts of all clips: arrays ``values``, ``scale`` and ``error``, as `Codes` has them."""

    def compute(numbers: NDArray[np.int64]) -> Iterable[Rows]:
        for _, parts in part_blocks(retriever, features, numbers):
            yield np.diff(parts.offsets), vars(Codes.of(parts.vectors))

    features = clips.features
    return keep_rows(clips.kept / "parts", key_of(retriever, features), clips.content, compute, in_memory)


def kept_clips(retriever: Retriever, clips: Clips, in_memory: bool = False) -> KeptRows:
    """Embeddings of all clips, one row a clip: array ``embedding``, float32, and its codes, as of parts."""

    def compute(numbers: NDArray[np.int64]) -> Iterable[Rows]:
        ids = [features.clip_ids[number] for number in numbers]
        for block in whole_clips(features.lengths(ids), 4 * _STEPS // features.dim):
            found = retriever.encode_stored(features, ids[block])
            yield np.ones(len(found), np.int64), {"embedding": found, **vars(Codes.of(found))}

    features = clips.features
    return keep_rows(clips.kept / "clips", key_of(retriever, features), clips.content, compute, in_memory)


def mean_part(retriever: Retriever, clips: Clips) -> NDArray[np.float32]:
    """Mean embedding of parts, (d,), of clips spread over the library: with a query, what unrelated footage scores.

    The clips are those with the lowest checksums: a random choice that changes little as a library grows.
    """

    def compute(numbers: NDArray[np.int64]) -> Iterable[Rows]:
        for _, parts in part_blocks(retriever, features, chosen[numbers]):
            vectors = np.nan_to_num(unit_rows(parts.vectors))
            sums = np.add.reduceat(vectors, parts.offsets[:-1], axis=0)
            yield np.ones(len(sums), np.int64), {"sum": sums, "count": np.diff(parts.offsets)}

    features, content, folder = clips.features, clips.content, clips.kept / "background"
    chosen = np.sort(np.lexsort(content.T[::-1])[:_BACKGROUND])

    def mean(in_memory: bool) -> NDArray[np.float32]:
        kept = keep_rows(folder, key_of(retriever, features), content[chosen], compute, in_memory)
        sums, counts = (kept.of_clips(name, np.arange(len(chosen))) for name in ("sum", "count"))
        found: NDArray[np.float32] = (sums.sum(axis=0) / counts.sum()).astype(np.float32)
        return found

    return with_repair(mean)
