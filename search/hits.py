"""What a search gives: hits and curves; and how the best clips become the best videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from supportset.search.moments import Moment

By = Literal["clip", "moment"]
BY: tuple[By, ...] = ("clip", "moment")
Group = Literal["clip", "video"]
GROUPS: tuple[Group, ...] = ("clip", "video")
Ranked: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.float32]]"  # rows of clips, the best first, and their scores
Ranking: TypeAlias = "Callable[[int], Ranked]"  # the best so many of a query


@dataclass(frozen=True)
class Hit:
    """One clip, or one video with the clips cut from it, that was found; and the moments of it that fit.

    Attributes
    ----------
    clip_id : str
        Of the dataset; of a video, the clip with the best score.
    score : float
        Cosine of query and clip, or of query and the clip's best part, from -1 to 1.
    path : str or None
        The clip's file, relative to the folder of videos; None where it is not known.
    start_s, end_s : float
        The best moment, in seconds of the file. Both are 0 for a picture.
    moments : tuple of Moment
        In seconds of the file, the best first: that one, and others that fit nearly as well.
    fits : bool or None
        Whether it fits the query, by the rule of `supportset.search.cutoff`; None where that is not known: for other
        queries than one text, and for whole clips that each text weights.
    cutoff : float or None
        The score above which it fits, if one of the best five hits is above its own; None where ``fits`` is.
    """

    clip_id: str
    score: float
    path: str | None
    start_s: float
    end_s: float
    moments: tuple[Moment, ...]
    fits: bool | None = None
    cutoff: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The hit as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Curve:
    """Scores of a query over the time of one clip.

    Attributes
    ----------
    spans : (T, 2) float64
        Start and end of each part in seconds of the file; the windows of a trained run overlap.
    scores : (T,) float32
        Cosines.
    base : float
        What unrelated footage of the library scores.
    cutoff : float or None
        What a part must score to fit; None where that is not known.
    """

    spans: NDArray[np.float64]
    scores: NDArray[np.float32]
    base: float
    cutoff: float | None

    def to_json(self) -> dict[str, Any]:
        """The curve as a JSON object."""
        return asdict(self) | {"spans": self.spans.tolist(), "scores": self.scores.tolist()}


def nothing_fits(hits: Sequence[Hit]) -> bool | None:
    """Whether no hit fits the query, or there is none; None where that is not known."""
    if any(hit.fits is None for hit in hits):
        return None
    return not any(hit.fits for hit in hits)


def with_fits(hits: Sequence[Hit], cutoffs: Sequence[float], first: int) -> list[Hit]:
    """Say of each hit whether it fits: above its cut-off, if one of the ``first`` hits is."""
    fits = [hit.score > cutoff for hit, cutoff in zip(hits, cutoffs, strict=True)]
    some = any(fits[:first])
    return [
        replace(hit, fits=some and own, cutoff=cutoff) for hit, own, cutoff in zip(hits, fits, cutoffs, strict=True)
    ]


def best_rows(scores: NDArray[np.float32], most: int, m: int) -> Ranked:
    """The best m rows; of equal scores the lower number first."""
    m = min(m, most)
    if not m:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    near = np.flatnonzero(scores >= np.partition(scores, len(scores) - m)[len(scores) - m])
    rows = near[np.argsort(-scores[near], kind="stable")[:m]]
    return rows, scores[rows]


def best_of_groups(ranking: Ranking, k: int, groups: NDArray[np.int64], without: Sequence[int]) -> Ranked:
    """The best clip of each of the best k groups. The best m clips hold them once they have k groups."""
    m = 2 * k + len(without)
    while True:
        rows, scores = ranking(m)
        exhausted = len(rows) < m
        keep = ~np.isin(rows, without)
        rows, scores = rows[keep], scores[keep]
        first = np.sort(np.unique(groups[rows], return_index=True)[1])[:k]
        if len(first) == k or exhausted:
            return rows[first], scores[first]
        m *= 4


def members(groups: NDArray[np.int64], allowed: NDArray[np.bool_], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The clips of each row's group that are searched."""
    near = np.flatnonzero(np.isin(groups, groups[rows]) & allowed)
    return [near[groups[near] == group] for group in groups[rows]]
