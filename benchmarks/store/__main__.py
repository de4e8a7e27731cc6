"""``make bench-store``: all figures of the feature store in one go, as a table and as JSON."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from benchmarks.machine import describe_machine
from benchmarks.report import Figure, print_figure, write_json
from benchmarks.store import cold_batches, million_clips, training_epoch, verifying, warm_batches, writing
from benchmarks.store.plan import QUICK, Plan, Sizes
from commands.memory import keep_freed_memory

FIGURES: dict[str, Callable[[Plan], Figure]] = {
    "a": warm_batches.measure,
    "b": training_epoch.measure,
    "c": cold_batches.measure,
    "d": verifying.measure,
    "e": writing.measure,
    "f": million_clips.measure,
}
RESULTS = Path(__file__).resolve().parents[1] / "results"


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
    letters = [letter.strip() for letter in only.split(",")] if only else list(FIGURES)
    if unknown := [letter for letter in letters if letter not in FIGURES]:
        raise click.UsageError(f"--only {only}: there is no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    rounds = rounds or (2 if quick else 15)
    out = out or RESULTS / ("store-partial.json" if only or quick else "store.json")
    console = Console()
    keep_freed_memory()  # as our commands do; else who must ask the kernel for memory anew is a matter of luck
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="supportset-bench-", dir=folder))
    try:
        machine = describe_machine(work)
        if machine["load"] > machine["cores"] / 4:
            console.print(f"Other programs are busy here (load {machine['load']}): ratios may suffer.", style="yellow")
        plan = Plan(work, QUICK if quick else Sizes(), rounds, lambda told: console.print(f"· {told} ...", style="dim"))
        figures = []
        for letter in letters:
            figures.append(FIGURES[letter](plan))
            print_figure(figures[-1], console)
        write_json(out, "store", figures, machine, {"quick": quick, "only": only, "rounds": rounds})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    missed = sum(row.met is False for figure in figures for row in figure.rows)
    targets = sum(row.met is not None for figure in figures for row in figure.rows)
    console.print(f"{targets - missed} of {targets} targets met; written to {out}")


if __name__ == "__main__":
    main()
