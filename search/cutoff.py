"""What a hit must score to fit a text: more than what unrelated texts reach on the same clip.

The rule
--------
*Background.* Three hundred texts of all kinds (``background.txt``) are scored against all clips. Few of them fit a
library, if any.

*Reach.* Some clips score high for any text. So a clip's reach is what `RANK` of the background texts score on it, the
rest less.

*Margin.* The best of a whole library are above their reach by chance. So the best `FIRST` clips of each background text
are compared with their reach, as measured by the other half of the texts. The margin is what `LEVEL` of the texts stay
below with all of these clips.

A clip fits a text if its score is above reach and margin. Nothing fits if none of the best `FIRST` does. So one of ten
unrelated texts still seems to fit; how many fitting ones are missed depends on the encoder (docs/results.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.kept.embeddings import key_of
from supportset.search.kept.rows import Rows, keep_rows, with_repair
from supportset.search.parts import part_blocks
from supportset.store.files import hash_parts

if TYPE_CHECKING:
    from supportset.search.retriever import Clips, Retriever

RANK = 0.99
LEVEL = 0.9
FIRST = 5

_BLOCK = 1 << 14  # clips at once

Scores = NDArray[np.float32]


@cache
def background_texts() -> tuple[str, ...]:
    """The texts of the background."""
    lines = Path(__file__).with_name("background.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line)


def clip_cutoffs(retriever: Retriever, clips: Clips, blocks: Iterable[NDArray[np.floating]]) -> Scores:
    """What each clip must score as a whole, (N,), by embeddings of unit length, (n, d), some clips after others."""
    texts = _embed_background(retriever, clips).T
    return cutoffs(np.asarray(block, np.float32) @ texts for block in blocks)


def part_cutoffs(retriever: Retriever, clips: Clips, rows: NDArray[np.int64]) -> Scores:
    """What the best part of each clip must score, (N,), for some rows of the clips' features."""
    features, texts = clips.features, _embed_background(retriever, clips)
    key = hash_parts([key_of(retriever, features).encode(), texts.tobytes()])

    def compute(numbers: NDArray[np.int64]) -> Iterable[Rows]:
        for block, parts in part_blocks(retriever, features, numbers):
            scores = parts.vectors @ texts.T
            best = np.maximum.reduceat(scores, parts.offsets[:-1], axis=0)
            yield np.ones(len(block), np.int64), {"scores": best.astype(np.float16)}

    def read(in_memory: bool) -> Scores:
        kept = keep_rows(clips.kept / "reach", key, clips.content, compute, in_memory)
        starts = range(0, len(rows), _BLOCK)
        return cutoffs(kept.of_clips("scores", rows[start : start + _BLOCK]).astype(np.float32) for start in starts)

    return with_repair(read)


def cutoffs(blocks: Iterable[Scores]) -> Scores:
    """Apply the rule.

    Parameters
    ----------
    blocks : iterable of (n, B) float32
        Scores of clips for the B background texts, some clips after others.

    Returns
    -------
    (N,) float32
        What a text must score on each clip.
    """
    reach: list[Scores] = []
    best = rise = np.full((FIRST, 0), -np.inf, np.float32)
    for scores in blocks:
        scores = np.where(np.isfinite(scores), scores, -1.0)
        even, odd = _rank(scores[:, ::2]), _rank(scores[:, 1::2])
        reach.append(_rank(scores))
        above = scores.copy()
        above[:, ::2] -= odd[:, None]
        above[:, 1::2] -= even[:, None]
        if not best.shape[1]:
            best = rise = np.full((FIRST, scores.shape[1]), -np.inf, np.float32)
        best, rise = np.concatenate([best, scores]), np.concatenate([rise, above])
        first = np.argpartition(-best, FIRST - 1, axis=0)[:FIRST]
        best, rise = np.take_along_axis(best, first, 0), np.take_along_axis(rise, first, 0)
    return np.concatenate(reach) + np.float32(np.quantile(rise.max(axis=0), LEVEL))


def _rank(scores: Scores) -> Scores:
    """The score that `RANK` of the texts do not exceed, for each clip."""
    place = int(np.ceil(RANK * scores.shape[1])) - 1
    found: Scores = np.partition(scores, place, axis=1)[:, place]
    return found


def _embed_background(retriever: Retriever, clips: Clips) -> NDArray[np.float32]:
    """Embeddings of the background texts, (B, d) float32; they are kept."""
    texts = background_texts()
    sums = [hash_parts([text.encode()]).rpartition(":")[2][:16] for text in texts]
    content = np.asarray([int(each, 16) for each in sums], np.uint64)[:, None]

    def compute(numbers: NDArray[np.int64]) -> Iterator[Rows]:
        found = retriever.encode_text([texts[number] for number in numbers])
        yield np.ones(len(found), np.int64), {"embedding": np.asarray(found, np.float32)}

    def read(in_memory: bool) -> NDArray[np.float32]:
        key = hash_parts([json.dumps(retriever.describe(), sort_keys=True).encode("utf-8", "surrogateescape")])
        kept = keep_rows(clips.kept / "texts", key, content, compute, in_memory)
        return unit_rows(kept.of_clips("embedding", np.arange(len(texts)))).astype(np.float32)

    return with_repair(read)
