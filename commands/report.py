"""``report``: the model card of a run, or an analysis of its support set."""

from __future__ import annotations

import click

from supportset.commands.options import device_option, json_option, print_json, store_option
from supportset.store.errors import printable_lines


@click.command("report")
@click.argument("run", type=click.Path())
@click.option("--support", is_flag=True, help="Analyse the attention of a split's captions, instead of the card.")
@click.option("--split", help="Of --support: a split of the run's protocol, or 'holdout'.  [default: test]")
@click.option(
    "--temperature",
    type=float,
    multiple=True,
    help="Of --support: also analyse the same embeddings at this temperature; repeatable.",
)
@click.option("--size", type=int, help="Of --support: clips of a support set.  [default: the run's batch]")
@store_option
@device_option
@json_option
def report_command(
    run: str,
    support: bool,
    split: str | None,
    temperature: tuple[float, ...],
    size: int | None,
    store: str,
    device: str,
    as_json: bool,
) -> None:
    """Write RUN's model card (README.md), with all its evaluations, and print it.

    With --support: how sharp the attention of captions over other clips is, and whether these clips have similar
    captions. With a decoder also: how well it writes captions from their own attention weights and from others'.
    The analysis is written to RUN/eval/. Only --support needs the store.
    """
    if support:
        from supportset.train.analysis.support_analysis import describe, support_report

        result = support_report(run, store, split=split, temperatures=temperature, size=size, device=device)
        if as_json:
            print_json(result)
        else:
            click.echo(printable_lines(describe(result)))
        return
    from supportset.train.model_card import CARD, write_card
    from supportset.train.run_folder import RunFolder

    folder = RunFolder(run)
    card = write_card(folder)
    if as_json:
        print_json({"run": run, "card": card})
    else:
        click.echo(printable_lines(card))
    click.echo(f"written: {folder.path / CARD}", err=True)
