"""``make bench-extract``: all figures of extraction in one go, as a table and as JSON."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from benchmarks.extract import device as device_rates
from benchmarks.extract import memory, overlap
from benchmarks.extract.plan import QUICK, Plan, Sizes
from benchmarks.machine import describe_machine
from benchmarks.report import Figure, print_figure, write_json
from commands.memory import keep_freed_memory

FIGURES: dict[str, Callable[[Plan], Figure]] = {
    "a": overlap.measure,
    "b": memory.measure,
    "c": device_rates.measure,
}
RESULTS = Path(__file__).resolve().parents[1] / "results"


@click.command(help="Measure extraction beside its own stages and beside the usual loop, all in one run.")
@click.option("--only", metavar="A,B", help="Letters of figures: a overlap, b memory, c device.")
@click.option("--quick", is_flag=True, help="Tiny sizes: whether everything runs, not how fast.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds that count. [default: 3; 1 with --quick]")
@click.option("--device", default="auto", show_default=True, help="Of figure c: auto, cpu or cuda.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to make the work folder (some 2 GB), removed at the end. [default: the system's temporary folder]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file. [default: benchmarks/results/extract.json; extract-partial.json with --only or --quick]",
)
def main(only: str | None, quick: bool, rounds: int | None, device: str, folder: Path | None, out: Path | None) -> None:
    """Run the figures one after another."""
    letters = [letter.strip() for letter in only.split(",")] if only else list(FIGURES)
    if unknown := [letter for letter in letters if letter not in FIGURES]:
        raise click.UsageError(f"--only {only}: there is no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    rounds = rounds or (1 if quick else 3)
    out = out or RESULTS / ("extract-partial.json" if only or quick else "extract.json")
    console = Console()
    keep_freed_memory()  # as our commands do, for the usual loop as well
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="supportset-bench-", dir=folder))
    try:
        machine = describe_machine(work)
        if machine["load"] > machine["cores"] / 4:
            console.print(f"Other programs are busy here (load {machine['load']}): ratios may suffer.", style="yellow")
        sizes = QUICK if quick else Sizes()
        plan = Plan(work, sizes, rounds, device, quick, lambda told: console.print(f"· {told} ...", style="dim"))
        figures = []
        for letter in letters:
            figures.append(FIGURES[letter](plan))
            print_figure(figures[-1], console)
        write_json(out, "extract", figures, machine, {"quick": quick, "only": only, "rounds": rounds, "device": device})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    missed = sum(row.met is False for figure in figures for row in figure.rows)
    targets = sum(row.met is not None for figure in figures for row in figure.rows)
    console.print(f"{targets - missed} of {targets} targets met; written to {out}")


if __name__ == "__main__":
    main()
