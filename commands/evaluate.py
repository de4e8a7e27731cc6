"""``eval``: score a run or an encoder pair, with protocol, gallery and missing clips."""

from __future__ import annotations

from typing import Any

import click

from supportset.commands.options import (
    check_mode,
    device_option,
    json_option,
    pairing_of,
    print_json,
    refuse_given,
    store_option,
    zero_shot_options,
)
from supportset.commands.scoring import evaluate_foreign, foreign_of, foreign_options, scoring_of, scoring_options
from supportset.store.errors import UsageError, printable_lines


@click.command("eval")
@click.argument("run", type=click.Path(), required=False)
@click.option("--protocol", help="[default: the run's, or the dataset's only one]")
@click.option("--split", help="A split of the protocol, or 'holdout': the part the run held out.  [default: test]")
@click.option("--dataset", help="Another dataset of the store, with features of the same recipe.  [default: the run's]")
@zero_shot_options
@click.option("--encoder", metavar="NAME", help="Path of the encoder pair on this machine.  [default: as recorded]")
@foreign_options
@scoring_options
@click.option("--out", type=click.Path(), help="Folder for scores and ranks of what is no run.  [default: not written]")
@store_option
@device_option
@json_option
def eval_command(
    run: str | None,
    protocol: str | None,
    split: str | None,
    dataset: str | None,
    zero_shot: str | None,
    encoder: str | None,
    out: str | None,
    store: str,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Score RUN or, with --zero-shot, features without training: recall at 1, 5, 10, 50, median and mean rank.

    With --embeddings, --scores or --run-file: what another program made. Both directions are scored. Ranks count ties
    against us; a clip without features is a miss. Scores and per-query ranks of a run are written to RUN/eval/.
    """
    foreign, scoring, pairing = foreign_of(options), scoring_of(options), pairing_of(options)
    of_pair = pairing | {"encoder": encoder}
    if foreign is None:
        check_mode(run, zero_shot, {"dataset": dataset}, of_pair | {"out": out})
    elif run or zero_shot:
        raise UsageError(f"both {run or '--zero-shot'} and the file of another program are given: leave one out")
    else:
        refuse_given(of_pair, "--zero-shot")
    from supportset.evaluate.evaluation import describe

    if foreign is not None:
        from supportset.evaluate.embeddings.score import Where

        evaluation = evaluate_foreign(foreign, Where(protocol, split, dataset, store), scoring)
        result = evaluation.to_json() if out is None else evaluation.write(out)
    elif zero_shot:
        from supportset.search.zero_shot import open_zero_shot

        retriever = open_zero_shot(zero_shot, store, encoder=encoder, device=device, **pairing)
        result = retriever.evaluate(protocol, split, out, scoring=scoring)
    else:
        from supportset.train.evaluate import evaluate

        result = evaluate(str(run), protocol, split, store, dataset=dataset, device=device, scoring=scoring)
    if as_json:
        print_json(result)
        return
    click.echo(printable_lines(describe(result)))
    if "files" in result:
        click.echo(f"per-query ranks: {result['files']['ranks']}")
