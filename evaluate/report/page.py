"""Write a report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supportset.evaluate.report.content import Report
from supportset.evaluate.report.figures import WAYS, chart, rank_histogram, recall_curves, require_libraries
from supportset.evaluate.results import SAME, Result

SHOWN = ("R@1", "R@5", "R@10", "MdR", "MnR")
_RULES = (
    "R@K: queries whose right answer is among the first K. Equal scores count against the model, and a clip without "
    "features is a miss. Intervals: bootstrap over clips."
)


def render(report: Report) -> str:
    """Render a report as HTML, in UTF-8.

    The page has no script, loads nothing, and forbids both. All texts of the report are escaped.

    Raises
    ------
    UsageError
        matplotlib or Jinja2 is not installed.
    """
    require_libraries()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    first = next(iter(report.scores), None)
    figures = {}
    if first is not None and first.ways:
        drawn = [each for each in report.scores if all(each.facts.get(key) == first.facts.get(key) for key in SAME)]
        figures["Recall over K"] = recall_curves(drawn)
        figures["Where the right answer stands"] = rank_histogram(first)
    return environment.get_template("report.html.j2").render(
        report=report,
        figures={title: Markup(svg) for title, svg in figures.items()},
        charts=[[Markup(chart(each)) for each in section.charts] for section in report.sections],
        groups=[group for score in report.scores for group in _groups(score)],
        shown=SHOWN,
        headline=None if first is None else dict(zip(SHOWN, _cells(first.facts, "t2v"), strict=True)),
        first=first,
        rules=_RULES,
        percent=lambda weight: f"{100 * weight:.1f}",
        pairs=lambda head, row: list(zip(head, row, strict=True))[1:],
    )


def _groups(score: Result) -> list[dict[str, Any]]:
    """Groups of rows of the table of scores: the raw scores, then those with more labels, and normalised ones."""
    facts = score.facts
    ranking = [
        f"{words}: " + ", ".join(f"{name} {value:.1f}" for name, value in facts["ranking"][way].items())
        for way, words in WAYS.items()
        if (facts.get("ranking") or {}).get(way)
    ]
    raw = f"{facts['name']}, {facts['gallery']:,} clips, {facts['queries']:,} queries"
    groups = [(score.name, "; ".join([raw, *ranking]), facts)]
    if labels := facts.get("labels"):
        groups.append((labels["score"], f"{labels['added']:,} more right clips", labels))
    groups += [
        (each["label"], "beside the raw score, and not to be compared with raw scores", each)
        for each in facts.get("beside") or ()
    ]
    return [
        {
            "title": title,
            "note": note,
            "rows": [(words, _cells(scores, way)) for way, words in WAYS.items() if scores.get(way)],
        }
        for title, note, scores in groups
    ]


def _cells(scores: Mapping[str, Any], way: str) -> list[tuple[str, str]]:
    """Scores of a direction, each with its interval where there is one."""
    bounds = scores.get("intervals", {}).get(way, {})
    return [
        (
            f"{scores[way][name]:.1f}" if name in scores[way] else "-",
            "{:.1f}\N{EN DASH}{:.1f}".format(*bounds[name]) if name in bounds else "",
        )
        for name in SHOWN
    ]
