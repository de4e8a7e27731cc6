"""Measures of a whole ranking, for queries with one or several right candidates: nDCG@k and average precision.

Ties count against the model, as in `supportset.evaluate.ranks`: wrong candidates stand before right ones of the same
score, and of two right ones that tie the lower grade stands first. Without ties both equal trec_eval's ``ndcg_cut`` and
``map``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.positives import Positives

DEPTH = 10


def positions(
    positives: Positives, wrong: NDArray[np.float64], score: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Place the right candidates of every query.

    Parameters
    ----------
    positives : Positives
        P pairs.
    wrong, score : (P,) float
        From `supportset.evaluate.counting.count_wrong` with ``every``.

    Returns
    -------
    order : (P,) int64
        The pairs, query by query, the best placed first.
    among : (P,) float64
        1 for the first right candidate of its query, 2 for the second ..., in that order.
    position : (P,) float64
        In the gallery, from 1, in that order; infinite where never found.
    """
    order = np.lexsort((positives.gain, -score, positives.query))
    among = (1.0 + np.arange(len(order)) - positives.first[positives.query]).astype(np.float64)
    return order.astype(np.int64), among, among + wrong[order]


def average_precision(
    positives: Positives, wrong: NDArray[np.float64], score: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average precision of each query, from 0 to 1: (Q,). A right candidate that is never found adds nothing."""
    _, among, position = positions(positives, wrong, score)
    return _mean(np.bincount(positives.query, among / position, positives.queries), positives.per_query())


def ndcg(
    positives: Positives, wrong: NDArray[np.float64], score: NDArray[np.float64], depth: int = DEPTH
) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of each query at a depth, from 0 to 1: (Q,).

    The gain is the grade and the discount log2(1 + position), as in trec_eval (Jarvelin and Kekalainen, 2002).
    """
    order, among, position = positions(positives, wrong, score)
    found = np.where(position <= depth, positives.gain[order] / np.log2(1 + position), 0.0)
    best = positives.gain[np.lexsort((-positives.gain, positives.query))]
    ideal = np.where(among <= depth, best / np.log2(1 + among), 0.0)
    total = np.bincount(positives.query, ideal, positives.queries)
    return _mean(np.bincount(positives.query, found, positives.queries), total)


def within(
    positives: Positives, wrong: NDArray[np.float64], score: NDArray[np.float64], depth: int = DEPTH
) -> NDArray[np.float64]:
    """Share of the first places of each query that the given pairs take, from 0 to 1: (Q,)."""
    _, _, position = positions(positives, wrong, score)
    return np.bincount(positives.query, position <= depth, positives.queries) / depth


def _mean(total: ArrayLike, count: ArrayLike) -> NDArray[np.float64]:
    totals, counts = np.asarray(total, dtype=np.float64), np.asarray(count, dtype=np.float64)
    return np.divide(totals, counts, out=np.zeros(len(totals)), where=counts > 0)
