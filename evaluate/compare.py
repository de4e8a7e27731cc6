"""Results against each other: paired differences to the first, and the queries that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from supportset.evaluate.paired_tests import (
    CUTS,
    METRICS,
    WAYS,
    Hits,
    bootstrap,
    count_hits,
    holm,
    interval,
    permutation_p,
)
from supportset.evaluate.results import Result, check_same
from supportset.evaluate.table import Number, Table, p_cell, score_cell, short
from supportset.store.errors import UsageError

SAMPLES = 2000
CHANGED = 10


def compare(
    results: Sequence[Result],
    *,
    metric: str = "t2v/R@1",
    samples: int = SAMPLES,
    changed: int = CHANGED,
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Compare results with the first of them.

    Intervals are of a bootstrap over clips, with the same draws for all; p values of a sign-flip permutation test over
    clips, corrected by Holm's method for the number of comparisons.

    Parameters
    ----------
    results : sequence of Result
        Two or more of the same protocol, split, gallery and queries.
    metric : str
        What p values are of: ``t2v/R@1``, ..., ``rsum``.
    samples : int
        Draws of the bootstrap.
    changed : int
        Queries to list for each other result, in each direction of change.
    texts : mapping, optional
        Text of each caption.

    Returns
    -------
    dict
        ``name``, ``dataset``, ``protocol``, ``split``, ``gallery``, ``queries``, ``metric``, ``bootstrap``, ``rows``
        (each with ``name``, ``selected_by``, ``missing``, ``scores``, ``median_rank``, ``difference`` to the first,
        ``changed``), as plain JSON.

    Raises
    ------
    UsageError
        Fewer than two results, an unknown metric, or results that cannot be compared.
    """
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if len(results) < 2:
        raise UsageError("give two or more results to compare")
    aligned = check_same(_apart(list(results)))
    clips = sorted({clip for way in aligned[0].ways.values() for clip in way.clips})
    hits = [_hits(result, clips) for result in aligned]
    if metric != "rsum" and any(metric.partition("/")[0] not in result.ways for result in aligned):
        raise UsageError(f"metric {metric!r} was not scored by all results; give --metric t2v/R@1")
    first = aligned[0]
    rows = [_row(result, each, samples) for result, each in zip(aligned, hits, strict=True)]
    for row, result, each in zip(rows[1:], aligned[1:], hits[1:], strict=True):
        row["difference"] = _difference(each, hits[0], metric, samples) | {"to": first.name}
        row["changed"] = _changed(first, result, changed, texts or {})
    corrected = holm([row["difference"]["p_permutation_over_clips"] for row in rows[1:]])
    for row, value in zip(rows[1:], corrected, strict=True):
        row["difference"]["p_permutation_holm"] = value
    return {
        **{key: first.facts[key] for key in ("dataset", "protocol", "split", "gallery", "expected_gallery", "queries")},
        "name": first.facts["name"].partition(" [")[0],
        "metric": metric,
        "bootstrap": {"samples": samples, "level": 0.95, "over": "clips"},
        "rows": rows,
    }


def _apart(results: list[Result]) -> list[Result]:
    """Give results of one name numbers."""
    names = [result.name for result in results]
    return [
        Result(f"{name} ({names[:place].count(name) + 1})", result.facts, result.ways)
        if names.count(name) > 1
        else result
        for place, (name, result) in enumerate(zip(names, results, strict=True))
    ]


def _hits(result: Result, clips: list[str]) -> Hits:
    number = {clip: place for place, clip in enumerate(clips)}
    hits, queries = [], []
    for way in WAYS:
        if way in result.ways:
            each = result.ways[way]
            found, asked = count_hits(each.ranks, [number[clip] for clip in each.clips], len(clips))
        else:  # not scored: all scores of this direction are NaN
            found, asked = np.full((len(clips), len(CUTS)), np.nan), np.ones(len(clips))
        hits.append(found)
        queries.append(np.repeat(asked[:, None], len(CUTS), axis=1))
    return Hits((0,), np.concatenate(hits, axis=1)[None], np.concatenate(queries, axis=1))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _scores(means: Any, bounds: Any) -> dict[str, Any]:
    return {
        name: {"mean": _number(mean), "interval": [_number(low), _number(high)] if np.isfinite(low) else None}
        for name, mean, (low, high) in zip(METRICS, means, bounds, strict=True)
    }


def _row(result: Result, hits: Hits, samples: int) -> dict[str, Any]:
    medians = {way: float(np.median(result.places(way))) for way in result.ways}
    return {
        "name": result.name,
        "score": result.facts["name"],
        "selected_by": result.facts.get("selected_by"),
        "missing": result.facts["missing"],
        "scores": _scores(hits.scores()[0], interval(bootstrap(hits, samples=samples))),
        "median_rank": {way: medians.get(way) for way in WAYS},
        "difference": None,
        "changed": None,
    }


def _difference(of: Hits, minus: Hits, metric: str, samples: int) -> dict[str, Any]:
    bounds = interval(bootstrap(of, minus, samples=samples))
    return {
        "scores": _scores((of.scores() - minus.scores())[0], bounds),
        "p_permutation_over_clips": permutation_p(of, minus, metric),
    }


def _changed(first: Result, other: Result, count: int, texts: Mapping[str, str]) -> dict[str, Any]:
    """Queries whose rank changed by the largest factor, for the better and for the worse."""
    before, after = first.places("t2v"), other.places("t2v")
    factor = np.log(before / after)
    mine, theirs = first.ways["t2v"], other.ways["t2v"]

    def told(place: int) -> dict[str, Any]:
        query = mine.queries[place]
        ranks = [None if not np.isfinite(each.ranks[place]) else int(each.ranks[place]) for each in (mine, theirs)]
        return {
            "query": query,
            "clip": mine.clips[place],
            "text": texts.get(query),
            "before": ranks[0],
            "after": ranks[1],
        }

    order = np.argsort(-factor, kind="stable")
    return {
        "better": [told(place) for place in order[:count] if factor[place] > 0],
        "worse": [told(place) for place in order[::-1][:count] if factor[place] < 0],
        "counts": [int((factor > 0).sum()), int((factor < 0).sum())],
    }


def tables(comparison: Mapping[str, Any], title: str = "Scores") -> list[Table]:
    """The tables of a comparison: scores, differences, queries that changed."""
    rows, metric = comparison["rows"], comparison["metric"]
    gallery = f"{comparison['gallery']:,} clips"
    if comparison["expected_gallery"] not in (None, comparison["gallery"]):
        gallery += f" (the protocol asks for {comparison['expected_gallery']:,}: not comparable)"
    scores = Table(
        f"{title}: {comparison['name']}, {comparison['dataset']}",
        ["model", *map(short, METRICS), "median rank t2v", "median rank v2t", "selected by"],
        [
            [
                row["name"],
                *(score_cell(row["scores"][name]) for name in METRICS),
                *(Number(row["median_rank"][way]) for way in WAYS),
                row["selected_by"] or "not known",
            ]
            for row in rows
        ],
        [
            f"gallery {gallery}, {comparison['queries']:,} queries; 95 % interval (bootstrap over clips) in brackets",
            "equal scores count against the model; a clip without features is a miss",
            *(f"{row['name']}: {row['missing']:,} clips are missing" for row in rows if row["missing"]),
        ],
    )
    differences = Table(
        f"Paired difference to {rows[0]['name']}",
        ["model", *map(short, METRICS), "p", "p after Holm"],
        [
            [
                row["name"],
                *(score_cell(row["difference"]["scores"][name], sign=True) for name in METRICS),
                p_cell(row["difference"]["p_permutation_over_clips"]),
                p_cell(row["difference"]["p_permutation_holm"]),
            ]
            for row in rows[1:]
        ],
        [f"p values are of {short(metric)}: sign-flip permutation test over clips, the models taken as they are"],
    )
    return [scores, differences, *(_changed_table(rows[0], row) for row in rows[1:])]


def _changed_table(first: Mapping[str, Any], row: Mapping[str, Any]) -> Table:
    better, worse = row["changed"]["counts"]
    listed = [*row["changed"]["better"], *row["changed"]["worse"]]
    return Table(
        f"Queries that changed most: {row['name']}",
        ["query", "clip", f"rank in {first['name']}", f"rank in {row['name']}", "text"],
        [
            [
                each["query"],
                each["clip"],
                *(str(each[when] or "miss") for when in ("before", "after")),
                each["text"] or "",
            ]
            for each in listed
        ],
        [f"{better:,} queries rank better than in {first['name']}, {worse:,} worse"],
    )
