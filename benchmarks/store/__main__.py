"""``make bench-store``: all figures of the feature store in one go, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.report import Figure
from benchmarks.run import Tell, run_figures
from benchmarks.store import cold_batches, million_clips, training_epoch, verifying, warm_batches, writing
from benchmarks.store.plan import QUICK, Plan, Sizes

FIGURES: dict[str, Callable[[Plan], Figure]] = {
    "a": warm_batches.measure,
    "b": training_epoch.measure,
    "c": cold_batches.measure,
    "d": verifying.measure,
    "e": writing.measure,
    "f": million_clips.measure,
}


@click.command(help="Measure the feature store beside named alternatives, all in one run.")
@click.option(
    "--only",
    metavar="A,B",
    help="Letters of figures: "
    + ", ".join(f"{letter} {(run.__module__.rpartition('.')[2]).replace('_', ' ')}" for letter, run in FIGURES.items()),
)
@click.option("--quick", is_flag=True, help="Tiny sizes: whether everything runs, not how fast.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds that count. [default: 15; 2 with --quick]")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to make the work folder (some 12 GB), removed at the end. [default: the system's temporary folder]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file. [default: benchmarks/results/store.json; store-partial.json with --only or --quick]",
)
def main(only: str | None, quick: bool, rounds: int | None, folder: Path | None, out: Path | None) -> None:
    """Run the figures one after another."""
    rounds = rounds or (2 if quick else 15)

    def start(work: Path, tell: Tell) -> Callable[[str], Figure]:
        plan = Plan(work, QUICK if quick else Sizes(), rounds, tell)
        return lambda letter: FIGURES[letter](plan)

    run_figures("store", FIGURES, start, only=only, quick=quick, folder=folder, out=out, told={"rounds": rounds})


if __name__ == "__main__":
    main()
