"""``make bench-store``: all figures of the feature store in one go, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.report import Figure
from benchmarks.run import Tell, figure_options, run_figures
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
_LETTERS = ", ".join(
    f"{letter} {run.__module__.rpartition('.')[2].replace('_', ' ')}" for letter, run in FIGURES.items()
)


@click.command(help="Measure the feature store beside named alternatives, all in one run.")
@figure_options("store", _LETTERS, "15; 2", "some 12 GB")
def main(only: str | None, quick: bool, rounds: int | None, folder: Path | None, out: Path | None) -> None:
    """Run the figures one after another."""
    rounds = rounds or (2 if quick else 15)

    def start(work: Path, tell: Tell) -> Callable[[str], Figure]:
        plan = Plan(work, QUICK if quick else Sizes(), rounds, tell)
        return lambda letter: FIGURES[letter](plan)

    run_figures("store", FIGURES, start, only=only, quick=quick, folder=folder, out=out, told={"rounds": rounds})


if __name__ == "__main__":
    main()
