"""A benchmark's run: a work folder, its figures in turn, what they say as tables and as JSON."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from rich.console import Console

from benchmarks.machine import describe_machine
from benchmarks.report import Figure, print_figure, write_json
from supportset._process import keep_freed_memory

Tell = Callable[[str], None]
RESULTS = Path(__file__).resolve().parent / "results"


def figure_options(
    name: str, figures: str, rounds: str, room: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that `run_figures` reads, and ``rounds``.

    Parameters
    ----------
    name : str
        Of the benchmark.
    figures, rounds, room : str
        For the help: the figures by letter, the default numbers of rounds, the room that the work folder takes.
    """
    options = (
        click.option("--only", metavar="A,B", help=f"Letters of figures: {figures}."),
        click.option("--quick", is_flag=True, help="Tiny sizes: whether everything runs, not how fast."),
        click.option("--rounds", type=click.IntRange(1), help=f"Rounds that count. [default: {rounds} with --quick]"),
        click.option(
            "--folder",
            type=click.Path(file_okay=False, path_type=Path),
            help=f"Where to make the work folder ({room}), removed at the end. "
            "[default: the system's temporary folder]",
        ),
        click.option(
            "--out",
            type=click.Path(dir_okay=False, path_type=Path),
            help=f"JSON file. [default: benchmarks/results/{name}.json; {name}-partial.json with --only or --quick]",
        ),
    )

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def run_figures(
    name: str,
    letters: Iterable[str],
    start: Callable[[Path, Tell], Callable[[str], Figure]],
    *,
    only: str | None,
    quick: bool,
    folder: Path | None,
    out: Path | None,
    told: dict[str, object],
) -> None:
    """Run the figures one after another.

    Parameters
    ----------
    name : str
        Of the benchmark and of its JSON file.
    letters : Iterable[str]
        Of all its figures.
    start : callable
        Takes a work folder, and what prints the progress; gives what runs the figure of a letter.
    only : str or None
        Letters of the figures to run, with commas between; None: all.
    quick : bool
        Whether to say that the sizes were tiny.
    folder : Path or None
        Where to make the work folder, by default among the system's temporary files.
    out : Path or None
        JSON file, by default in ``benchmarks/results``.
    told : dict[str, object]
        How it was run, for the JSON file.

    Raises
    ------
    click.UsageError
        There is no such figure.
    """
    known = list(letters)
    chosen = [letter.strip() for letter in only.split(",")] if only else known
    if unknown := [letter for letter in chosen if letter not in known]:
        raise click.UsageError(f"--only {only}: there is no figure {unknown[0]!r}; there are {', '.join(known)}")
    out = out or RESULTS / (f"{name}-partial.json" if only or quick else f"{name}.json")
    console = Console()
    keep_freed_memory()  # as our commands do, and for the rivals as well: else it is a matter of luck who must ask anew
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="supportset-bench-", dir=folder))
    try:
        machine = describe_machine(work)
        if machine["load"] > machine["cores"] / 4:
            console.print(f"Other programs are busy here (load {machine['load']}): ratios may suffer.", style="yellow")
        measure, figures = start(work, lambda words: console.print(f"· {words} ...", style="dim")), []
        for letter in chosen:
            figures.append(measure(letter))
            print_figure(figures[-1], console)
        write_json(out, name, figures, machine, {"quick": quick, "only": only, **told})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    met = [row.met for figure in figures for row in figure.rows if row.met is not None]
    console.print(f"{sum(met)} of {len(met)} targets met; written to {out}")
