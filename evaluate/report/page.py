"""Write a report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supportset.evaluate.report.content import Report, Score
from supportset.evaluate.report.figures import WAYS, chart, rank_histogram, recall_curves, require_libraries

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
    first = next((score for score in report.scores if score.ranks), None)
    drawn = [] if first is None else [first, *(s for s in report.scores if s.baseline and s is not first)]
    figures = {
        "Recall over K": recall_curves(drawn),
        "Where the right answer stands": rank_histogram(drawn[0]),
    } if drawn else {}  # fmt: skip
    return environment.get_template("report.html.j2").render(
        report=report,
        figures={title: Markup(svg) for title, svg in figures.items()},
        charts=[[Markup(chart(each)) for each in section.charts] for section in report.sections],
        rows=[_rows(score) for score in report.scores],
        shown=SHOWN,
        headline={name: _cell(report.scores[0].result, "t2v", name) for name in SHOWN} if report.scores else {},
        rules=_RULES,
        percent=lambda weight: f"{100 * weight:.1f}",
        pairs=lambda head, row: list(zip(head, row, strict=True))[1:],
    )


def _rows(score: Score) -> list[dict[str, Any]]:
    """Rows of the table of scores, one a direction."""
    return [{"way": words, "cells": [_cell(score.result, way, name) for name in SHOWN]} for way, words in WAYS.items()]


def _cell(result: Mapping[str, Any], way: str, name: str) -> tuple[str, str]:
    """A score and its interval."""
    bounds = result["intervals"][way].get(name)
    return f"{result[way][name]:.1f}", "" if bounds is None else "{:.1f}\N{EN DASH}{:.1f}".format(*bounds)
