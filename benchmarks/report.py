"""What was measured: rows with their targets, as a table for people and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.timing import Timings

AS_FAST = "x as fast"
THE_TIME = "x the time"


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes
    ----------
    name : str
        Stable, for programs: ``warm.zarr.read_rows/ram``.
    says : str
        What was measured, for people.
    beside : str
        What it is compared with; empty where it stands alone.
    value : float
        The number.
    unit : str
        ``x as fast``, ``x the time``, ``s``, ``MB``.
    at_least, at_most : float, optional
        The target, None where there is none.
    """

    name: str
    says: str
    beside: str
    value: float
    unit: str = AS_FAST
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_ratio(self) -> bool:
        """Whether the number is independent of the machine's pace."""
        return self.unit in (AS_FAST, THE_TIME)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def target(self) -> str:
        """The target in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    @property
    def shown(self) -> str:
        """The number in words."""
        return f"{_number(self.value)} {self.unit}"

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or nothing."""
        return {True: "met", False: "missed", None: ""}[self.met]


@dataclass
class Figure:
    """What one script measured.

    Attributes
    ----------
    name : str
        ``warm``, ``epoch``, ...
    title : str
        One line.
    rows : list[Row]
        What came out.
    sizes : dict[str, Any]
        Of what it was measured on.
    timings : list[Timings]
        Seconds of each contender.
    notes : list[str]
        What a reader should know, such as what was left out and why.
    """

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    sizes: dict[str, Any] = field(default_factory=dict)
    timings: list[Timings] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The figure as a JSON object."""
        rows = [{**asdict(row), "met": row.met} for row in self.rows]
        timings = {name: told for timings in self.timings for name, told in timings.to_json().items()}
        return {
            **{"figure": self.name, "title": self.title, "sizes": self.sizes, "rows": rows, "notes": self.notes},
            "timings": timings,
        }


def rows_of(figure: dict[str, Any]) -> list[Row]:
    """The rows of a figure's JSON."""
    return [Row(**{key: value for key, value in row.items() if key != "met"}) for row in figure["rows"]]


def print_figure(figure: Figure, console: Console) -> None:
    """Show a figure on the terminal."""
    table = Table(title=figure.title, title_justify="left")
    for column, side in (("what", "left"), ("beside", "left"), ("figure", "right"), ("target", "right"), ("", "left")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for row in figure.rows:
        style = {True: "green", False: "red", None: None}[row.met]
        table.add_row(row.says, row.beside, row.shown, row.target, row.verdict, style=style)
    console.print(table)
    for note in figure.notes:
        console.print(f"  {note}", highlight=False)


def write_json(
    path: Path, benchmark: str, figures: Sequence[Figure], machine: dict[str, Any], options: dict[str, Any]
) -> None:
    """Write all figures of a run: ``ratios`` by name for programs, ``figures`` with everything else."""
    content = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine,
        "options": options,
        "ratios": {row.name: round(row.value, 4) for figure in figures for row in figure.rows if row.is_ratio},
        "missed": [row.name for figure in figures for row in figure.rows if row.met is False],
        "figures": [figure.to_json() for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _number(value: float) -> str:
    """Three digits that count, so that 0.899 does not look like the 0.90 it misses."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
