"""``make bench-train``: all figures of training in one go, as a table and as JSON."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from benchmarks.machine import describe_machine
from benchmarks.report import Figure, print_figure, write_json
from benchmarks.train import full_size, loader_wait, step_time
from benchmarks.train.data import Prepared
from benchmarks.train.plan import QUICK, Plan, Sizes
from commands.memory import keep_freed_memory
from train.device import check_device

FIGURES: dict[str, Callable[[Plan, Prepared], Figure]] = {
    "a": loader_wait.measure,
    "b": step_time.measure,
    "c": full_size.measure,
}
RESULTS = Path(__file__).resolve().parents[1] / "results"
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@click.command(help="Measure training beside the straightforward version of the same step, all in one run.")
@click.option("--only", metavar="A,B", help="Letters of figures: a loader, b step, c full size on a GPU.")
@click.option("--quick", is_flag=True, help="Tiny sizes: whether everything runs, not how fast.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds that count. [default: 3; 1 with --quick]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda; figure c takes a GPU.")
@click.option(
    "--real",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with msrvtt/ (annotations) and t5_tokenizer/; without them captions and tokenizer are made up. "
    "[default: shared/data beside the checkout]",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to make the work folder (some 5 GB; 15 GB with figure c), removed at the end. [default: the system's "
    "temporary folder]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file. [default: benchmarks/results/train.json; train-partial.json with --only or --quick]",
)
def main(
    only: str | None,
    quick: bool,
    rounds: int | None,
    device: str,
    real: Path | None,
    folder: Path | None,
    out: Path | None,
) -> None:
    """Run the figures one after another."""
    letters = [letter.strip() for letter in only.split(",")] if only else list(FIGURES)
    if unknown := [letter for letter in letters if letter not in FIGURES]:
        raise click.UsageError(f"--only {only}: there is no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    check_device(device)
    rounds = rounds or (1 if quick else 3)
    out = out or RESULTS / ("train-partial.json" if only or quick else "train.json")
    console = Console()
    keep_freed_memory()  # as our commands do, for the straightforward version as well
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="supportset-bench-", dir=folder))
    try:
        machine = describe_machine(work)
        if machine["load"] > machine["cores"] / 4:
            console.print(f"Other programs are busy here (load {machine['load']}): ratios may suffer.", style="yellow")
        sizes = QUICK if quick else Sizes()
        plan = Plan(
            work, real or REAL, sizes, rounds, device, quick, lambda told: console.print(f"· {told} ...", style="dim")
        )
        prepared, figures = Prepared(plan), []
        for letter in letters:
            figures.append(FIGURES[letter](plan, prepared))
            print_figure(figures[-1], console)
        write_json(out, "train", figures, machine, {"quick": quick, "only": only, "rounds": rounds, "device": device})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    missed = sum(row.met is False for figure in figures for row in figure.rows)
    targets = sum(row.met is not None for figure in figures for row in figure.rows)
    console.print(f"{targets - missed} of {targets} targets met; written to {out}")


if __name__ == "__main__":
    main()
