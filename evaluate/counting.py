"""Count the wrong candidates that are not below a right one, exactly, without the matrix of all scores.

A gallery that does not fit into memory (a mapped file) is read once, block by block. Scores of a block are computed in
float32. Only those that are too close to a right candidate's score to be decided by them are computed again in
float64, so the counts are those of float64 scores that are rounded to float32. The bound is the usual one for a dot
product of unit vectors: (d + 2) u with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.positives import ABSENT, Positives

Floats = NDArray[np.floating]

_CANDIDATES, _QUERIES = 4096, 1024  # of a block of scores: 16 MB in float32
_PAIRS = 4096  # computed again at once
_MANY = 0.1  # of a block's scores that are close: then all of it is computed again


class Scores(Protocol):
    """Scores of all queries and candidates, given block by block."""

    shape: tuple[int, int]

    def pairs(self, query: NDArray[np.int64], candidate: NDArray[np.int64]) -> Floats:
        """Scores of single pairs, (P,)."""

    def blocks(self) -> Iterator[tuple[slice, slice, Block]]:
        """Blocks that cover the matrix: queries, candidates, scores."""


class Block:
    """Exact scores (q, c) of a block."""

    def __init__(self, scores: Floats) -> None:
        self.scores = scores

    def not_below(self, threshold: Floats) -> NDArray[np.int64]:
        """Candidates whose score is not below each query's threshold (NaN scores count), (q,)."""
        return np.count_nonzero(~(self.scores < threshold[:, None]), axis=1)


class ScoreMatrix:
    """Scores that are given: (Q, G), any float dtype, higher is better; may be a mapped file."""

    def __init__(self, scores: ArrayLike) -> None:
        self._scores = np.asanyarray(scores)
        self.shape: tuple[int, int] = (self._scores.shape[0], self._scores.shape[1])

    def pairs(self, query: NDArray[np.int64], candidate: NDArray[np.int64]) -> Floats:
        """See `Scores`."""
        return np.asarray(self._scores[query, candidate])

    def blocks(self) -> Iterator[tuple[slice, slice, Block]]:
        """See `Scores`."""
        queries, candidates = self.shape
        rows = max(1, _CANDIDATES * _QUERIES // max(1, candidates))
        for start in range(0, queries, rows):
            chunk = slice(start, min(start + rows, queries))
            floats = self._scores.dtype if self._scores.dtype.kind not in "biu" else np.float64
            yield chunk, slice(0, candidates), Block(np.array(self._scores[chunk], dtype=floats))


class CosineScores:
    """Cosines of embeddings (Q, d) and (G, d), each of any float dtype; the gallery may be a mapped file."""

    def __init__(self, queries: ArrayLike, candidates: ArrayLike) -> None:
        self._queries, self._candidates = np.asanyarray(queries), np.asanyarray(candidates)
        self.shape: tuple[int, int] = (len(self._queries), len(self._candidates))

    def pairs(self, query: NDArray[np.int64], candidate: NDArray[np.int64]) -> Floats:
        """See `Scores`."""
        found = np.empty(len(query), np.float32)
        for start in range(0, len(query), _PAIRS):
            some = slice(start, start + _PAIRS)
            left, right = unit_rows(self._queries[query[some]]), unit_rows(self._candidates[candidate[some]])
            found[some] = np.einsum("ij,ij->i", left, right)
        return found

    def blocks(self) -> Iterator[tuple[slice, slice, Block]]:
        """See `Scores`."""
        queries, candidates = self.shape
        chunks = [slice(start, min(start + _QUERIES, queries)) for start in range(0, queries, _QUERIES)]
        units = [unit_rows(self._queries[chunk]).astype(np.float32) for chunk in chunks]
        for start in range(0, candidates, _CANDIDATES):
            block = slice(start, min(start + _CANDIDATES, candidates))
            exact = unit_rows(self._candidates[block])
            right = exact.astype(np.float32)
            for chunk, left in zip(chunks, units, strict=True):
                yield chunk, block, CosineBlock(left @ right.T, self._queries[chunk], exact)


class CosineBlock(Block):
    """Scores in float32, and what is needed to decide close ones in float64."""

    def __init__(self, scores: Floats, queries: Floats, candidates: NDArray[np.float64]) -> None:
        super().__init__(scores)
        self._queries, self._candidates = queries, candidates
        # of the sum, of both factors' rounding, of the rounding of an exact score and of the thresholds below
        self._error = np.float32((candidates.shape[1] + 12) * 2.0**-24)

    def not_below(self, threshold: Floats) -> NDArray[np.int64]:
        """See `Block`."""
        low, high = (threshold - self._error)[:, None], (threshold + self._error)[:, None]
        surely = np.count_nonzero(self.scores > high, axis=1)
        close = np.count_nonzero(~(self.scores < low), axis=1) - surely
        if not close.any():
            return surely
        if close.sum() > _MANY * self.scores.size:
            exact = (unit_rows(self._queries) @ self._candidates.T).astype(np.float32)
            exact[np.isneginf(self.scores)] = -np.inf  # right candidates are taken out
            return np.count_nonzero(~(exact < threshold[:, None]), axis=1)
        rows = np.flatnonzero(close)
        some = self.scores[rows]
        query, candidate = np.nonzero(~(some < low[rows]) & ~(some > high[rows]))
        query = rows[query]
        for start in range(0, len(query), _PAIRS):
            part = slice(start, start + _PAIRS)
            left, right = unit_rows(self._queries[query[part]]), self._candidates[candidate[part]]
            exact = np.einsum("ij,ij->i", left, right).astype(np.float32)
            not_below = ~(exact < threshold[query[part]])
            surely = surely + np.bincount(query[part][not_below], minlength=len(surely))
        return surely


def unit_rows(vectors: ArrayLike) -> NDArray[np.float64]:
    """Scale rows to unit length, in float64. A row of zeros stays zero; one that is not finite becomes NaN."""
    rows = np.asarray(vectors, dtype=np.float64)
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.where(finite, rows / np.maximum(norms, 1e-12), np.nan)


def count_wrong(
    scores: Scores, positives: Positives, *, every: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count, for right candidates, the wrong candidates of the same query that do not score strictly below.

    Parameters
    ----------
    scores : Scores
        Of Q queries and G candidates.
    positives : Positives
        Of the Q queries.
    every : bool
        For every right candidate, not only for the best of each query.

    Returns
    -------
    wrong : (Q,) or, with ``every``, (P,) float64
        Infinite where the right candidate is absent or its score is not finite: it is never found.
    score : the same shape
        The score of the right candidate; -inf where it is never found.
    """
    there = positives.candidate != ABSENT
    score = np.full(len(positives.query), -np.inf)
    score[there] = scores.pairs(positives.query[there], positives.candidate[there])
    score[~np.isfinite(score)] = -np.inf
    if every:
        place = np.arange(len(score)) - positives.first[positives.query]  # the k-th right candidate of its query
        layers = [np.flatnonzero(place == k) for k in range(int(place.max(initial=-1)) + 1)]
        targets = [(positives.query[pairs], score[pairs]) for pairs in layers]
    else:
        best = np.full(positives.queries, -np.inf)
        np.maximum.at(best, positives.query, score)
        score, layers, targets = best, [np.arange(len(best))], [(np.arange(len(best)), best)]
    thresholds = []
    for query, values in targets:
        threshold = np.full(positives.queries, np.inf)
        threshold[query] = np.where(np.isfinite(values), values, np.inf)
        thresholds.append(threshold)
    counts = [np.zeros(positives.queries, np.int64) for _ in layers]
    by_candidate = np.argsort(positives.candidate, kind="stable")
    sorted_candidates = positives.candidate[by_candidate]
    for chunk, block, part in scores.blocks():
        inside = by_candidate[slice(*np.searchsorted(sorted_candidates, [block.start, block.stop]))]
        query = positives.query[inside]
        mine = inside[(query >= chunk.start) & (query < chunk.stop)]
        right = positives.query[mine] - chunk.start, positives.candidate[mine] - block.start
        part.scores[right] = -np.inf
        for threshold, count in zip(thresholds, counts, strict=True):
            limit = threshold[chunk].astype(part.scores.dtype)
            count[chunk] += part.not_below(limit)
    wrong = np.empty(len(score))
    for pairs, (query, _), count in zip(layers, targets, counts, strict=True):
        wrong[pairs] = count[query]
    wrong[np.isneginf(score)] = np.inf
    return wrong, score
