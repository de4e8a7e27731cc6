"""From the scores of a clip's steps to the moments that fit a query.

The rule
--------
*Curve.* Scores are smoothed over `Rule.smooth_s` seconds by a triangle, so that one odd frame makes no moment.

*Cut.* A moment reaches from its peak to both sides as long as the curve stays above ``base + (1 - fall) * (peak -
base)``. ``base`` is what unrelated footage scores for the query: the mean over all steps of the library. A clip that
fits as a whole is therefore one moment, however long.

*More than one.* After the best moment come the next peaks, as long as they rise above ``base`` by at least `Rule.keep`
of what the best rises. Moments that are no more than `Rule.gap_s` apart are one; over a longer time without any step
none reaches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Moment:
    """A part of a clip.

    Attributes
    ----------
    start_s, end_s : float
        Seconds from the clip's start.
    score : float
        Of its best step, not smoothed.
    clip_id : str
        The clip that has this step; empty where only one clip is asked about.
    """

    start_s: float
    end_s: float
    score: float
    clip_id: str = ""


@dataclass(frozen=True)
class Rule:
    """How moments are cut.

    Attributes
    ----------
    smooth_s : float
        Half the base of the triangle that smooths the scores, in seconds.
    fall : float
        Share of the peak's rise above the background that the curve may fall inside a moment, from 0 to 1.
    keep : float
        Share of the best moment's rise that another moment must have, from 0 to 1.
    gap_s : float
        Moments so many seconds apart, or fewer, are merged.
    most : int
        Moments of one clip.
    """

    smooth_s: float = 2.0
    fall: float = 0.5
    keep: float = 0.7
    gap_s: float = 2.0
    most: int = 3


def find_moments(scores: ArrayLike, spans: ArrayLike, base: float, rule: Rule | None = None) -> list[Moment]:
    """Cut the moments of one clip.

    Parameters
    ----------
    scores : (T,) float
        Of the clip's steps, at least one. One that is not finite counts as ``base``.
    spans : (T, 2) float
        Start and end of each step in seconds, in any order. Where they overlap, as windows do, each time between two
        edges is a step, with the mean score of the windows over it.
    base : float
        Score of unrelated footage for the same query.
    rule : Rule, optional
        Default: `Rule`'s own values.

    Returns
    -------
    list of Moment
        The best first: at least one, whatever the scores.

    Examples
    --------
    >>> seconds = [(i, i + 1) for i in range(8)]
    >>> find_moments([0, 0, 0, 1, 1, 1, 0, 0], seconds, base=0.0, rule=Rule(smooth_s=1))
    [Moment(start_s=3.0, end_s=6.0, score=1.0, clip_id='')]
    """
    rule = rule or Rule()
    spans = np.asarray(spans, np.float64)
    raw = np.asarray(scores, np.float64)
    raw, spans = _side_by_side(np.where(np.isfinite(raw), raw, base), spans)
    curve = _smooth(raw, spans, rule.smooth_s)
    holes = _holes(spans, rule.gap_s)
    free = np.ones(len(curve), bool)
    parts: list[tuple[int, int]] = []
    best_rise = curve.max() - base
    while free.any() and len(parts) < 4 * rule.most:  # some will merge
        peak = int(np.where(free, curve, -np.inf).argmax())
        rise = curve[peak] - base
        if parts and not (rise > 0 and rise >= rule.keep * best_rise):
            break
        # Where nothing rises above the background, the peak alone is the moment
        inside = (curve >= base + (1 - rule.fall) * rise) & free if rise > 0 else curve > np.inf
        inside[peak] = True
        first, last = _run_around(inside, holes, peak)
        parts.append((first, last))
        free[first:last] = False
    merged = _merge(sorted(parts), spans, rule.gap_s)
    moments = [Moment(float(spans[a, 0]), float(spans[b - 1, 1]), float(raw[a:b].max())) for a, b in merged]
    return sorted(moments, key=lambda moment: (-moment.score, moment.start_s))[: rule.most]


def merge_moments(moments: Iterable[Moment], base: float, rule: Rule | None = None) -> list[Moment]:
    """Merge the moments of several clips of one file.

    Parameters
    ----------
    moments : iterable of Moment
        In seconds of the file.
    base : float
        Score of unrelated footage.
    rule : Rule, optional
        Its ``gap_s``, ``keep`` and ``most`` hold for the file as they do for a clip.

    Returns
    -------
    list of Moment
        The best first. One that is made of several has the score and the clip of the best of them.
    """
    rule = rule or Rule()
    joined: list[Moment] = []
    for each in sorted(moments, key=lambda moment: (moment.start_s, moment.end_s)):
        if joined and each.start_s - joined[-1].end_s <= rule.gap_s:
            best = each if each.score > joined[-1].score else joined[-1]
            end = max(each.end_s, joined[-1].end_s)
            joined[-1] = replace(best, start_s=joined[-1].start_s, end_s=end)
        else:
            joined.append(each)
    joined.sort(key=lambda moment: (-moment.score, moment.start_s))
    least = base + rule.keep * (joined[0].score - base) if joined and joined[0].score > base else np.inf
    return joined[:1] + [each for each in joined[1 : rule.most] if each.score >= least]


def _side_by_side(
    scores: NDArray[np.float64], spans: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn overlapping windows into steps; steps stay as they are, in the order of time."""
    order = np.lexsort((spans[:, 1], spans[:, 0]))
    scores, spans = scores[order], spans[order]
    if (spans[1:, 0] >= spans[:-1, 1]).all():
        return scores, spans
    edges = np.unique(spans)
    first, last = np.searchsorted(edges, spans[:, 0]), np.searchsorted(edges, spans[:, 1])
    total, count = np.zeros(len(edges)), np.zeros(len(edges))
    for sums, values in ((total, scores), (count, np.ones(len(scores)))):
        np.add.at(sums, first, values)
        np.add.at(sums, last, -values)
    covers = np.cumsum(count)[:-1] > 0.5  # a gap between windows is no step
    means = np.cumsum(total)[:-1][covers] / np.cumsum(count)[:-1][covers]
    return means, np.stack([edges[:-1], edges[1:]], axis=1)[covers]


def _smooth(scores: NDArray[np.float64], spans: NDArray[np.float64], half_base: float) -> NDArray[np.float64]:
    """Weighted means of neighbours; at the ends of those that there are."""
    step = float(np.median(spans[:, 1] - spans[:, 0]))
    reach = min(int(half_base / step), len(scores) - 1) if step > 0 else 0
    if reach < 1:
        return scores
    kernel = 1 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
    weights = np.convolve(np.ones(len(scores)), kernel, "full")[reach : reach + len(scores)]
    return np.convolve(scores, kernel, "full")[reach : reach + len(scores)] / weights


def _holes(spans: NDArray[np.float64], gap_s: float) -> NDArray[np.int64]:
    """Steps before which there is no step for longer than ``gap_s``; none where steps are instants."""
    if not np.median(spans[:, 1] - spans[:, 0]) > 0:
        return np.zeros(0, np.int64)
    return np.flatnonzero(spans[1:, 0] - spans[:-1, 1] > gap_s) + 1


def _run_around(inside: NDArray[np.bool_], holes: NDArray[np.int64], at: int) -> tuple[int, int]:
    """The run of true values around ``at``, up to the next holes: its first index, and the one after its last."""
    outside = np.flatnonzero(~inside)
    first = max(outside[outside < at].max(initial=-1) + 1, holes[holes <= at].max(initial=0))
    last = min(outside[outside > at].min(initial=len(inside)), holes[holes > at].min(initial=len(inside)))
    return int(first), int(last)


def _merge(parts: list[tuple[int, int]], spans: NDArray[np.float64], gap_s: float) -> list[tuple[int, int]]:
    merged = parts[:1]
    for first, last in parts[1:]:
        if spans[first, 0] - spans[merged[-1][1] - 1, 1] <= gap_s:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged
