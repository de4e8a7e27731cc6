"""The curve of a video's scores over time, in the coordinates of its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supportset.search.page.times import clock

WIDTH, HEIGHT, FLOOR = 100, 190, 160  # percent of the page's width, and pixels
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds between ticks
_TICKS = 9


def draw(
    spans: Sequence[Sequence[float]], scores: Sequence[float], base: float, cutoff: float | None, at_s: float
) -> dict[str, Any]:
    """Place a curve: what the template ``curve.html.j2`` writes, without its moments.

    Parameters
    ----------
    spans : sequence of (start, end)
        Seconds, in any order; they may overlap.
    scores : sequence of float
    base : float
        Score of unrelated footage: the floor of the picture, unless a score is lower.
    cutoff : float or None
    at_s : float
        Where the player stands.
    """
    from_s, to_s = min(start for start, _ in spans), max(end for _, end in spans)
    known = [*scores, base] if cutoff is None else [*scores, base, cutoff]
    low, high = min(known), max(known)
    room = (high - low) or 1.0

    def x(seconds: float) -> float:
        return round(WIDTH * (min(max(seconds, from_s), to_s) - from_s) / ((to_s - from_s) or 1.0), 2)

    def y(score: float) -> float:
        return round(FLOOR - (FLOOR - 12) * (score - low) / room, 1)

    middles = sorted(((start + end) / 2, score) for (start, end), score in zip(spans, scores, strict=True))
    points = [(x(seconds), y(score)) for seconds, score in middles]
    points = [(0.0, points[0][1]), *points, (float(WIDTH), points[-1][1])]
    trace = "M" + "L".join(f"{a:g},{b:g}" for a, b in points)
    return {
        "height": HEIGHT,
        "floor": FLOOR,
        "from_s": from_s,
        "to_s": to_s,
        "trace": trace,
        "area": f"{trace}V{FLOOR}H0Z",
        "cut": None if cutoff is None else y(cutoff),
        "now": x(at_s),
        "ticks": _ticks(from_s, to_s, x),
        "x": x,
    }


def _ticks(from_s: float, to_s: float, x: Any) -> list[dict[str, Any]]:
    step = next((step for step in _STEPS if (to_s - from_s) / step <= _TICKS), _STEPS[-1])
    first = -int(-from_s // step) * step  # the first multiple that is not before the start
    ticks: list[dict[str, Any]] = []
    seconds = float(first)
    while seconds <= to_s and len(ticks) < 200:
        place = x(seconds)
        anchor = "start" if place < 2 else "end" if place > WIDTH - 2 else "middle"
        ticks.append({"x": place, "time": clock(seconds), "anchor": anchor})
        seconds += step
    return ticks
