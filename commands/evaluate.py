"""``eval``: score a run or an encoder pair, with protocol, gallery and missing clips."""

from __future__ import annotations

from typing import Literal

import click

from supportset.commands.options import (
    check_mode,
    device_option,
    json_option,
    print_json,
    store_option,
    zero_shot_options,
)
from supportset.store.errors import printable_lines


@click.command("eval")
@click.argument("run", type=click.Path(), required=False)
@click.option("--protocol", help="[default: the run's, or the dataset's only one]")
@click.option("--split", help="A split of the protocol, or 'holdout': the part the run held out.  [default: test]")
@click.option("--dataset", help="Another dataset of the store, with features of the same recipe.  [default: the run's]")
@zero_shot_options
@click.option("--encoder", metavar="NAME", help="Path of the encoder pair on this machine.  [default: as recorded]")
@click.option("--out", type=click.Path(), help="Folder for scores and ranks of --zero-shot.  [default: not written]")
@store_option
@device_option
@json_option
def eval_command(
    run: str | None,
    protocol: str | None,
    split: str | None,
    dataset: str | None,
    zero_shot: str | None,
    templates: tuple[str, ...],
    pooling: Literal["mean", "text-weighted"] | None,
    temperature: float | None,
    encoder: str | None,
    out: str | None,
    store: str,
    device: str,
    as_json: bool,
) -> None:
    """Score RUN or, with --zero-shot, features without training: recall at 1, 5, 10, 50, median and mean rank.

    Both directions are scored. Ranks count ties against us; a clip without features is a miss. Scores and per-query
    ranks of a run are written to RUN/eval/.
    """
    of_zero_shot = {"--template": templates, "--pooling": pooling, "--temperature": temperature is not None}
    check_mode(run, zero_shot, {"--dataset": dataset}, of_zero_shot | {"--encoder": encoder, "--out": out})
    from supportset.evaluate.evaluation import describe

    if zero_shot:
        from supportset.search.zero_shot import open_zero_shot

        retriever = open_zero_shot(
            zero_shot,
            store,
            encoder=encoder,
            templates=templates,
            pooling=pooling or "mean",
            temperature=temperature,
            device=device,
        )
        result = retriever.evaluate(protocol, split, out)
    else:
        from supportset.train.evaluate import evaluate

        result = evaluate(str(run), protocol, split, store, dataset=dataset, device=device)
    if as_json:
        print_json(result)
        return
    click.echo(printable_lines(describe(result)))
    if "files" in result:
        click.echo(f"per-query ranks: {result['files']['ranks']}")
