"""``make bench-eval``: scoring beside other scorers, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.evaluate.figures import FULL, QUICK, Plan, measure
from benchmarks.report import Figure
from benchmarks.run import Tell, figure_options, run_figures


@click.command(help="Measure scoring beside a full matrix and the scorers of other libraries, all in one run.")
@figure_options("evaluate", "a as many texts as clips, b a large gallery", "3; 1", "1.1 GB")
def main(only: str | None, quick: bool, rounds: int | None, folder: Path | None, out: Path | None) -> None:
    """Run the figures one after another."""
    rounds = rounds or (1 if quick else 3)

    def start(work: Path, tell: Tell) -> Callable[[str], Figure]:
        plan = Plan(work, QUICK if quick else FULL, rounds, tell)
        return lambda letter: measure(plan, letter)

    run_figures("evaluate", FULL, start, only=only, quick=quick, folder=folder, out=out, told={"rounds": rounds})


if __name__ == "__main__":
    main()
