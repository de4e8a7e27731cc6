"""``make bench-search``: search beside other indexes, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.report import Figure
from benchmarks.run import Tell, figure_options, run_figures
from benchmarks.search import new_file, page, sizes
from benchmarks.search.sizes import Plan, Shape
from benchmarks.search.ways import WAYS

FULL = {"a": Shape(10_000, 100), "b": Shape(100_000, 100), "c": Shape(1_000_000, 100), "d": Shape(10_000_000, 30)}
QUICK = {letter: Shape(parts, 5, 32) for letter, parts in zip("abcd", (400, 800, 1_600, 3_200), strict=True)}
OTHERS = {"e": page.measure, "f": new_file.measure}


@click.command(help="Measure search beside other indexes, the page under load, and a new file until it is found.")
@figure_options(
    "search",
    "a, b, c, d 10,000, 100,000, a million and ten million parts; e the page; f a new file",
    "1; 1",
    "35 GB; 6 GB without d",
)
@click.option(
    "--without",
    type=click.Choice([way for way in WAYS if way != "exact"]),
    multiple=True,
    help="Leave out an index that takes long to build; may be given again.",
)
def main(
    only: str | None,
    quick: bool,
    rounds: int | None,
    folder: Path | None,
    out: Path | None,
    without: tuple[str, ...],
) -> None:
    """Run the figures one after another."""

    def start(work: Path, tell: Tell) -> Callable[[str], Figure]:
        plan = Plan(work, tell, QUICK if quick else FULL, quick, without)
        return lambda letter: OTHERS[letter](plan) if letter in OTHERS else sizes.measure(plan, letter)

    run_figures(
        "search", [*FULL, *OTHERS], start, only=only, quick=quick, folder=folder, out=out, told={"rounds": rounds or 1}
    )


if __name__ == "__main__":
    main()
