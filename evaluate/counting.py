"""Count the wrong candidates that are not below a right one, exactly, without the matrix of all scores.

A gallery that does not fit into memory (a mapped file) is read once, block by block. Scores of a block are computed in
float32. Only those that are too close to a right candidate's score to be decided by them are computed again in
float64, so the counts are those of float64 scores that are rounded (`round_cosines`). The bound is the usual one for a
dot product of unit vectors: (d + 2) u with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.positives import ABSENT, Positives

Floats = NDArray[np.floating]

_CANDIDATES, _QUERIES = 4096, 256  # of a block of scores: 4 MB in float32, near the processor
_PAIRS = 4096  # computed again at once
_LAYERS = 4  # right candidates of a query; of more, scores are computed in float64 at once
_MANY = 0.1  # of a block's scores that are close: then all of it is computed again


class Scores(Protocol):
    """Scores of all queries and candidates, given block by block."""

    shape: tuple[int, int]

    def pairs(self, query: NDArray[np.int64], candidate: NDArray[np.int64]) -> Floats:
        """Scores of single pairs, (P,)."""

    def blocks(self, exact: bool = False) -> Iterator[tuple[slice, slice, Block]]:
        """Blocks that cover the matrix: queries, candidates, scores; ``exact`` where each serves many thresholds."""


class Block:
    """Exact scores (q, c) of a block."""

    def __init__(self, scores: Floats) -> None:
        self.scores = scores

    def not_below(self, threshold: Floats) -> NDArray[np.int64]:
        """Candidates whose score is not below each query's threshold (NaN scores count), (q,)."""
        return self.scores.shape[1] - np.count_nonzero(self.scores < threshold[:, None], axis=1)

    def mask(self, threshold: Floats) -> NDArray[np.bool_]:
        """Which these are, (q, c)."""
        found: NDArray[np.bool_] = ~(self.scores < threshold[:, None])
        return found


class ScoreMatrix:
    """Scores that are given: (Q, G), any float dtype, higher is better; may be a mapped file."""

    def __init__(self, scores: ArrayLike) -> None:
        self._scores = np.asanyarray(scores)
        self.shape: tuple[int, int] = (self._scores.shape[0], self._scores.shape[1])

    def pairs(self, query: NDArray[np.int64], candidate: NDArray[np.int64]) -> Floats:
        """See `Scores`."""
        return np.asarray(self._scores[query, candidate])

    def blocks(self, exact: bool = False) -> Iterator[tuple[slice, slice, Block]]:
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
            found[some] = round_cosines(np.einsum("ij,ij->i", left, right))
        return found

    def blocks(self, exact: bool = False) -> Iterator[tuple[slice, slice, Block]]:
        """See `Scores`."""
        queries, candidates = self.shape
        chunks = [slice(start, min(start + _QUERIES, queries)) for start in range(0, queries, _QUERIES)]
        dtype = np.float64 if exact else np.float32
        units: list[Floats] = [unit_rows(self._queries[chunk]).astype(dtype) for chunk in chunks]
        for start in range(0, candidates, _CANDIDATES):
            block = slice(start, min(start + _CANDIDATES, candidates))
            doubles = unit_rows(self._candidates[block])
            right: Floats = doubles.astype(dtype, copy=False)
            for chunk, left in zip(chunks, units, strict=True):
                scores = round_cosines(left @ right.T) if exact else (left @ right.T).astype(np.float32, copy=False)
                yield chunk, block, Block(scores) if exact else CosineBlock(scores, self._queries[chunk], doubles)


class CosineBlock(Block):
    """Scores in float32, and what is needed to decide close ones in float64."""

    def __init__(self, scores: Floats, queries: Floats, candidates: NDArray[np.float64]) -> None:
        super().__init__(scores)
        self._queries, self._candidates = queries, candidates
        # of the sum, of both factors' rounding, of the rounding of an exact score and of the thresholds below
        self._error = np.float32((candidates.shape[1] + 12) * 2.0**-24)

    def not_below(self, threshold: Floats) -> NDArray[np.int64]:
        """See `Block`."""
        surely = np.count_nonzero(self.scores > (threshold + self._error)[:, None], axis=1)
        below = np.count_nonzero(self.scores < (threshold - self._error)[:, None], axis=1)
        rows = np.flatnonzero(surely + below < self.scores.shape[1])
        if len(rows):
            surely[rows] = np.count_nonzero(self._decide(rows, threshold), axis=1)
        return surely

    def mask(self, threshold: Floats) -> NDArray[np.bool_]:
        """See `Block`."""
        return self._decide(np.arange(len(self.scores)), threshold)

    def _decide(self, rows: NDArray[np.int64], threshold: Floats) -> NDArray[np.bool_]:
        """Which scores of some rows are not below, those that are close by their exact values."""
        scores, limit = self.scores[rows], threshold[rows, None]
        found: NDArray[np.bool_] = ~(scores < limit - self._error)
        close = found & ~(scores > limit + self._error)
        if np.count_nonzero(close) > _MANY * close.size:
            exact = round_cosines(unit_rows(self._queries[rows]) @ self._candidates.T)
            found[close] = ~(exact < limit)[close]
            return found
        row, candidate = np.nonzero(close)
        for start in range(0, len(row), _PAIRS):
            part = slice(start, start + _PAIRS)
            left, right = unit_rows(self._queries[rows[row[part]]]), self._candidates[candidate[part]]
            exact = round_cosines(np.einsum("ij,ij->i", left, right))
            found[row[part], candidate[part]] = ~(exact < limit[row[part], 0])
        return found


def unit_rows(vectors: ArrayLike) -> NDArray[np.float64]:
    """Scale rows to unit length, in float64. A row of zeros stays zero; one that is not finite becomes NaN."""
    rows = np.asarray(vectors, dtype=np.float64)
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.where(finite, rows / np.maximum(norms, 1e-12), np.nan)


def round_cosines(cosines: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round cosines to multiples of 2^-24, which float32 holds.

    Sums of the same products in another order differ by some 1e-16, and BLAS takes several orders; the rounding makes
    equal embeddings tie, also where the sum is near zero.
    """
    return (np.rint(cosines * 2.0**24) * 2.0**-24).astype(np.float32)


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
    for chunk, _, part in _without_right(scores, positives, exact=len(layers) > _LAYERS):
        for threshold, count in zip(thresholds, counts, strict=True):
            count[chunk] += part.not_below(threshold[chunk].astype(part.scores.dtype))
    wrong = np.empty(len(score))
    for pairs, (query, _), count in zip(layers, targets, counts, strict=True):
        wrong[pairs] = count[query]
    wrong[np.isneginf(score)] = np.inf
    return wrong, score


def count_wrong_groups(scores: Scores, positives: Positives, group: ArrayLike) -> NDArray[np.float64]:
    """Count groups of candidates, such as the captions of a clip, of which any is not below the best right candidate.

    Parameters
    ----------
    scores : Scores
        Of Q queries and G candidates.
    positives : Positives
        Of the Q queries; a group with a right candidate has no wrong ones.
    group : (G,) int
        Group of each candidate, from 0.

    Returns
    -------
    (Q,) float64
        Infinite where no right candidate has a finite score.
    """
    groups = np.asarray(group)
    best = np.full(positives.queries, -np.inf)
    found = np.asarray(scores.pairs(positives.query, positives.candidate), dtype=np.float64)
    np.maximum.at(best, positives.query, np.where(np.isfinite(found), found, -np.inf))
    threshold = np.where(np.isfinite(best), best, np.inf)
    ahead = np.zeros((positives.queries, int(groups.max()) + 1), np.bool_)
    for chunk, block, part in _without_right(scores, positives):
        order = np.argsort(groups[block], kind="stable")
        names, first = np.unique(groups[block][order], return_index=True)
        mask = part.mask(threshold[chunk].astype(part.scores.dtype))[:, order]
        ahead[chunk, names] |= np.logical_or.reduceat(mask, first, axis=1)
    return np.where(np.isfinite(best), np.count_nonzero(ahead, axis=1), np.inf)


def _without_right(scores: Scores, positives: Positives, exact: bool = False) -> Iterator[tuple[slice, slice, Block]]:
    """Blocks in which right candidates have the score -inf: they are below every threshold."""
    by_candidate = np.argsort(positives.candidate, kind="stable")
    sorted_candidates = positives.candidate[by_candidate]
    for chunk, block, part in scores.blocks(exact):
        inside = by_candidate[slice(*np.searchsorted(sorted_candidates, [block.start, block.stop]))]
        query = positives.query[inside]
        mine = inside[(query >= chunk.start) & (query < chunk.stop)]
        part.scores[positives.query[mine] - chunk.start, positives.candidate[mine] - block.start] = -np.inf
        yield chunk, block, part
