"""``make bench-train``: all figures of training in one go, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.report import Figure
from benchmarks.run import Tell, figure_options, run_figures
from benchmarks.train import full_size, loader_wait, step_time
from benchmarks.train.data import Prepared
from benchmarks.train.plan import QUICK, Plan, Sizes
from supportset.train.device import check_device

FIGURES: dict[str, Callable[[Plan, Prepared], Figure]] = {
    "a": loader_wait.measure,
    "b": step_time.measure,
    "c": full_size.measure,
}
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@click.command(help="Measure training beside the straightforward version of the same step, all in one run.")
@figure_options("train", "a loader, b step, c full size on a GPU", "3; 1", "some 5 GB; 15 GB with figure c")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda; figure c takes a GPU.")
@click.option(
    "--real",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with msrvtt/ (annotations) and t5_tokenizer/; without them captions and tokenizer are made up. "
    "[default: shared/data beside the checkout]",
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
    check_device(device)
    rounds = rounds or (1 if quick else 3)

    def start(work: Path, tell: Tell) -> Callable[[str], Figure]:
        plan = Plan(work, real or REAL, QUICK if quick else Sizes(), rounds, device, quick, tell)
        prepared = Prepared(plan)
        return lambda letter: FIGURES[letter](plan, prepared)

    run_figures(
        "train",
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
