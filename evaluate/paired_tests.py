"""Intervals and paired tests over runs of several seeds that were scored on the same queries.

Two factors vary from study to study: the clips, and the seeds of the trainings. Both are resampled with replacement,
independently of each other (the "pigeonhole" bootstrap for crossed factors). Two variants are compared on the same
draws, and all captions of a clip are drawn together. With few seeds their part of the interval is slightly too narrow,
by sqrt((n - 1) / n), while resampling both factors counts their shared variance twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

WAYS = ("t2v", "v2t")
CUTS = (1, 5, 10)
RECALLS = tuple(f"{way}/R@{cut}" for way in WAYS for cut in CUTS)
METRICS = (*RECALLS, "rsum")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Hits:
    """Hits of each clip's queries, run by run.

    Attributes
    ----------
    seeds : tuple of int
        S seeds, one a run.
    hits : (S, C, 6) float64
        Queries of each clip with a rank within the cut; columns as `RECALLS`.
    queries : (C, 6) float64
        Queries of each clip.
    """

    seeds: tuple[int, ...]
    hits: Floats
    queries: Floats

    def of(self, seeds: Sequence[int]) -> Hits:
        """Select the runs of some seeds."""
        return Hits(tuple(seeds), self.hits[[self.seeds.index(seed) for seed in seeds]], self.queries)

    def scores(self) -> Floats:
        """Scores of each seed, (S, 7), columns as `METRICS`: recalls in percent and their sum."""
        return with_sum(100 * self.hits.sum(1) / self.queries.sum(0))


def count_hits(ranks: ArrayLike, clips: ArrayLike, number: int) -> tuple[Floats, Floats]:
    """Count the queries of each clip with a rank within the cuts.

    Parameters
    ----------
    ranks : (Q,) float
        Infinite for a miss.
    clips : (Q,) int
        The clip of each query, below ``number``.
    number : int
        Number of clips.

    Returns
    -------
    hits : (number, 3) float64
        Columns as `CUTS`.
    queries : (number,) float64
        Queries of each clip.
    """
    ranks, clips = np.asarray(ranks), np.asarray(clips)
    hits = [np.bincount(clips, weights=ranks <= cut, minlength=number) for cut in CUTS]
    return np.stack(hits, axis=1), np.bincount(clips, minlength=number).astype(np.float64)


def with_sum(recalls: Floats) -> Floats:
    """Append the sum of the recalls (..., 6) as a seventh column."""
    return np.concatenate([recalls, recalls.sum(-1, keepdims=True)], axis=-1)


def bootstrap(of: Hits, minus: Hits | None = None, *, samples: int = 2000, seed: int = 0) -> Floats:
    """Resample the mean over seeds, or the paired difference of two variants.

    Parameters
    ----------
    of : Hits
        Of one variant.
    minus : Hits, optional
        Of the other variant: the same clips, and the same seeds in the same order.
    samples : int
        Number of draws.
    seed : int
        Of the draws.

    Returns
    -------
    (samples, 7) float64
        Columns as `METRICS`.
    """
    if minus is not None and (minus.seeds != of.seeds or minus.hits.shape != of.hits.shape):
        raise ValueError("a paired difference needs the same seeds and clips on both sides")
    count, clips, columns = of.hits.shape
    hits = of.hits if minus is None else of.hits - minus.hits
    rng = np.random.default_rng(seed)
    result = np.empty((samples, columns))
    for sample in range(samples):
        clip_weight = np.bincount(rng.integers(clips, size=clips), minlength=clips).astype(np.float64)
        seed_weight = np.bincount(rng.integers(count, size=count), minlength=count) / count
        by_clip = np.tensordot(seed_weight, hits, 1)  # (C, 6)
        result[sample] = 100 * (clip_weight @ by_clip) / (clip_weight @ of.queries)
    return with_sum(result)


def interval(draws: Floats, level: float = 0.95) -> list[list[float]]:
    """Percentile interval of each column."""
    tail = 50 * (1 - level)
    return np.percentile(draws, [tail, 100 - tail], axis=0).T.tolist()


def permutation_p(of: Hits, minus: Hits, metric: str, *, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p value of a paired sign-flip permutation test over clips.

    The sign of each clip's difference, a mean over the seeds, is flipped at random, as if the variants were
    interchangeable. The trained models are fixed, so the p value says nothing about other seeds.
    """
    difference = (of.hits - minus.hits).mean(0) / of.queries.sum(0)  # (C, 6)
    each = difference.sum(1) if metric == "rsum" else difference[:, RECALLS.index(metric)]
    each = each[each != 0]
    if not len(each):
        return 1.0
    rng = np.random.default_rng(seed)
    found, reached, block = abs(each.sum()), 0, max(1, (1 << 22) // len(each))
    for start in range(0, samples, block):
        signs = rng.integers(0, 2, size=(min(block, samples - start), len(each)), dtype=np.int8) * 2.0 - 1.0
        reached += int((abs(signs @ each) >= found * (1 - 1e-12)).sum())
    return (1 + reached) / (1 + samples)


def sign_test_p(differences: ArrayLike) -> float:
    """Two-sided p value of the sign test, without zeros. With n seeds it is never below 2^(1 - n)."""
    differences = np.asarray(differences, dtype=np.float64)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    number = wins + losses
    if not number:
        return 1.0
    tail = sum(math.comb(number, k) for k in range(max(wins, losses), number + 1)) / 2**number
    return min(1.0, 2 * tail)


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for multiple comparisons by Holm's method; in the order given."""
    corrected = [0.0] * len(values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = highest
    return corrected
