"""One table, written as Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supportset.store.errors import printable

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    char: f"\\{char}" for char in "&%$#_{}"
}


@dataclass(frozen=True)
class Number:
    """A number of a table.

    Attributes
    ----------
    value : float or None
        None: there is none, shown as ``-``.
    interval : (low, high), optional
    sign : bool
        Whether a plus is shown, as of a difference.
    digits : int
        Behind the point.
    """

    value: float | None
    interval: Sequence[float] | None = None
    sign: bool = False
    digits: int = 1

    def shown(self, value: float | None) -> str:
        """One number in the table's form."""
        if value is None or not math.isfinite(value):
            return "-"
        return f"{value:{'+' if self.sign else ''}.{self.digits}f}"

    def __str__(self) -> str:
        if self.interval is None or self.shown(self.value) == "-":
            return self.shown(self.value)
        low, high = self.interval
        return f"{self.shown(self.value)} [{self.shown(low)}, {self.shown(high)}]"


Cell = str | Number


@dataclass(frozen=True)
class Table:
    """A head and rows of cells.

    Attributes
    ----------
    title : str
    head : sequence of str
    rows : sequence of rows of cells
    notes : sequence of str
        Lines below it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def markdown_rows(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [list(head), ["---"] * len(head), *rows]
    return [f"| {' | '.join(printable(cell).replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines]


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables below each other, each with a heading and its notes."""
    parts = []
    for table in tables:
        notes = [f"- {printable(note)}" for note in table.notes]
        parts.append(
            "\n".join([f"## {printable(table.title)}", "", *markdown_rows(table.head, table.rows), "", *notes])
        )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """Tables below each other, an empty line between; a number with an interval takes three columns."""
    parts = []
    for table in tables:
        columns = [[row[place] for row in table.rows] for place in range(len(table.head))]
        wide = [any(isinstance(cell, Number) and cell.interval for cell in column) for column in columns]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            [
                name
                for title, three in zip(table.head, wide, strict=True)
                for name in ([title, f"{title} low", f"{title} high"] if three else [title])
            ]
        )
        for row in table.rows:
            cells: list[str] = []
            for cell, three in zip(row, wide, strict=True):
                if isinstance(cell, Number):
                    bounds = list(cell.interval) if cell.interval else [None, None]
                    numbers = [cell.value, *bounds] if three else [cell.value]
                    cells += ["" if n is None or not math.isfinite(n) else f"{n:.6g}" for n in numbers]
                else:
                    cells += [cell, "", ""] if three else [cell]
            writer.writerow(cells)
        parts.append(out.getvalue())
    return "\n".join(parts)


def to_latex(tables: Sequence[Table]) -> str:
    """One ``table`` environment each, for the package ``booktabs``; notes are comments."""
    parts = []
    for table in tables:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.title)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}", r"\toprule"]
        lines += [" & ".join(map(_tex, table.head)) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_tex_cell, row)) + r" \\" for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", *(f"% {printable(note)}" for note in table.notes)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in printable(text))


def _tex_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _tex(cell)
    value, _, bounds = str(cell).partition(" [")
    if value.startswith(("+", "-")) and len(value) > 1:
        value = f"${value}$"
    return value + (rf" {{\scriptsize [{bounds}}}" if bounds else "")


def score_cell(score: Mapping[str, Any], sign: bool = False) -> Number:
    """A score with ``mean`` and ``interval``."""
    return Number(score["mean"], score["interval"], sign)


def p_cell(value: float | None) -> str:
    """A p value."""
    return "-" if value is None else f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def short(metric: str) -> str:
    """``t2v/R@1`` as the head of a column."""
    return metric.replace("/", " ")


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}
