"""``make bench-extract``: all figures of extraction in one go, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.extract import crowd, memory, overlap, thumbnails
from benchmarks.extract import device as device_rates
from benchmarks.extract.plan import QUICK, Plan, Sizes
from benchmarks.report import Figure
from benchmarks.run import Tell, figure_options, run_figures

FIGURES: dict[str, Callable[[Plan], Figure]] = {
    "a": overlap.measure,
    "b": memory.measure,
    "c": device_rates.measure,
    "d": crowd.measure,
    "e": thumbnails.measure,
}


@click.command(help="Measure extraction beside its own stages and beside the usual loop, all in one run.")
@figure_options("extract", "a overlap, b memory, c device, d crowd, e thumbnails", "3; 1", "some 2 GB")
@click.option("--device", default="auto", show_default=True, help="Of figure c: auto, cpu or cuda.")
def main(only: str | None, quick: bool, rounds: int | None, device: str, folder: Path | None, out: Path | None) -> None:
    """Run the figures one after another."""
    rounds = rounds or (1 if quick else 3)

    def start(work: Path, tell: Tell) -> Callable[[str], Figure]:
        plan = Plan(work, QUICK if quick else Sizes(), rounds, device, quick, tell)
        return lambda letter: FIGURES[letter](plan)

    run_figures(
        "extract",
        FIGURES,
        start,
        only=only,
        quick=quick,
        folder=folder,
        out=out,
        told={"rounds": rounds, "device": device},
    )


if __name__ == "__main__":
    main()
