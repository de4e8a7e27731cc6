"""``eval``: score a run, with protocol, gallery and missing clips."""

from __future__ import annotations

import click

from supportset.commands.options import device_option, json_option, print_json, store_option
from supportset.store.errors import printable_lines


@click.command("eval")
@click.argument("run", type=click.Path())
@click.option("--protocol", help="[default: the run's]")
@click.option("--split", help="A split of the protocol, or 'holdout': the part the run held out.  [default: test]")
@click.option("--dataset", help="Another dataset of the store, with features of the same recipe.  [default: the run's]")
@store_option
@device_option
@json_option
def eval_command(
    run: str, protocol: str | None, split: str | None, dataset: str | None, store: str, device: str, as_json: bool
) -> None:
    """Score RUN: recall at 1, 5, 10 and 50, median and mean rank, in both directions.

    Ranks count ties against us; a clip without features is a miss. Scores and per-query ranks are written to RUN/eval/.
    """
    from supportset.evaluate.evaluation import describe
    from supportset.train.evaluate import evaluate

    result = evaluate(run, protocol, split, store, dataset=dataset, device=device)
    if as_json:
        print_json(result)
        return
    click.echo(printable_lines(describe(result)))
    click.echo(f"per-query ranks: {result['files']['ranks']}")
