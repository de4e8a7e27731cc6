"""Ranks and recalls of any model's scores, by one rule: ties count against the model.

The rank of a query is 1 + the number of wrong candidates that do not score strictly below the best of its right
candidates. A collapsed model, whose scores are all equal, therefore has R@1 = 0 in any dtype. A query whose right
candidates have no finite score is a miss: its rank is infinite. A wrong candidate whose score is NaN counts against
the model, so a broken embedding cannot make the gallery easier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.counting import CosineScores, ScoreMatrix, count_wrong, round_cosines, unit_rows
from supportset.evaluate.positives import Positives

__all__ = [
    "CUTS",
    "MISS",
    "bootstrap_intervals",
    "cosine_scores",
    "ranks_of_scores",
    "retrieval_ranks",
    "rsum",
    "summarize",
    "unit_rows",
]

CUTS = (1, 5, 10, 50)
MISS = np.inf


def cosine_scores(queries: NDArray[np.float64], candidates: NDArray[np.float64]) -> NDArray[np.float32]:
    """Cosine scores of unit rows (Q, d) and (G, d).

    Returns
    -------
    (Q, G) float32
        Summed in float64 and rounded: see `supportset.evaluate.counting.round_cosines`.
    """
    return round_cosines(queries @ candidates.T)


def ranks_of_scores(scores: ArrayLike, query_group: ArrayLike, candidate_group: ArrayLike) -> NDArray[np.float64]:
    """Pessimistic ranks of a score matrix.

    Parameters
    ----------
    scores : (Q, G) float
        Any float dtype; higher is better.
    query_group : (Q,) int
        Group of each query, such as the number of its clip.
    candidate_group : (G,) int
        A candidate is right for all queries of the same group.

    Returns
    -------
    (Q,) float64
        Ranks from 1; ``MISS`` where no right candidate has a finite score.

    Examples
    --------
    >>> ranks_of_scores([[0.9, 0.2], [0.5, 0.5]], [0, 1], [0, 1])
    array([1., 2.])
    """
    wrong, _ = count_wrong(ScoreMatrix(scores), Positives.of_groups(query_group, candidate_group))
    return 1.0 + wrong


def retrieval_ranks(
    queries: ArrayLike, candidates: ArrayLike, query_group: ArrayLike, candidate_group: ArrayLike
) -> NDArray[np.float64]:
    """Ranks by cosine of embeddings (Q, d) and (G, d), computed in blocks: neither the scores nor a mapped gallery
    need fit into memory.

    Parameters and result are those of `ranks_of_scores`, with embeddings in place of scores.
    """
    wrong, _ = count_wrong(CosineScores(queries, candidates), Positives.of_groups(query_group, candidate_group))
    return 1.0 + wrong


def summarize(ranks: ArrayLike, candidates: int, cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """Recalls in percent, median and mean rank.

    Parameters
    ----------
    ranks : (Q,) float
        ``MISS`` for a miss.
    candidates : int
        Size of the gallery. A miss enters median and mean as the rank after the last.
    cuts : sequence of int
        The k of each R@k.

    Returns
    -------
    dict
        ``R@k`` for each cut, ``MdR`` and ``MnR``.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    if not len(ranks):
        raise ValueError("no queries, so no score")
    finite = np.minimum(ranks, candidates + 1)
    scores = {f"R@{cut}": float(100 * (ranks <= cut).mean()) for cut in cuts}
    return scores | {"MdR": float(np.median(finite)), "MnR": float(finite.mean())}


def rsum(*directions: dict[str, float]) -> float:
    """Sum of R@1, R@5 and R@10 over the directions (at most 300 each)."""
    return sum(scores[f"R@{cut}"] for scores in directions for cut in (1, 5, 10))


def bootstrap_intervals(
    ranks: ArrayLike,
    groups: ArrayLike,
    cuts: Sequence[int] = CUTS,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Percentile bootstrap intervals of the recalls, in percent.

    Groups are drawn, not queries: the captions of one clip are not independent of each other.

    Parameters
    ----------
    ranks : (Q,) float
        ``MISS`` for a miss.
    groups : (Q,) int or str
        The clip of each query.
    cuts : sequence of int
        The k of each R@k.
    samples : int
        Number of draws.
    level : float
        Coverage.
    seed : int
        Of the draws.

    Returns
    -------
    dict
        ``[low, high]`` for each ``R@k``.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    count = int(group.max()) + 1
    queries = np.bincount(group, minlength=count).astype(np.float64)  # (C,)
    hits = np.stack([np.bincount(group, weights=ranks <= cut, minlength=count) for cut in cuts], axis=1)  # (C, cuts)
    rng = np.random.default_rng(seed)
    recalls = np.empty((samples, len(cuts)))
    for sample in range(samples):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        recalls[sample] = 100 * (drawn @ hits) / (drawn @ queries)
    tail = 50 * (1 - level)
    low, high = np.percentile(recalls, [tail, 100 - tail], axis=0)
    return {f"R@{cut}": [float(low[i]), float(high[i])] for i, cut in enumerate(cuts)}
