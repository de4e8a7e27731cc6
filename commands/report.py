"""``report``: the model card of a run, and where its support set's attention goes."""

from __future__ import annotations

import click

from supportset.commands.options import device_option, json_option, print_json, store_option


@click.command("report")
@click.argument("run", type=click.Path())
@click.option("--support", is_flag=True, help="Which clips the captions of a split attend to, in place of the card.")
@click.option("--split", help="Of --support: a split of the run's protocol, or 'holdout'.  [default: test]")
@click.option(
    "--temperature",
    type=float,
    multiple=True,
    help="Of --support: look at the same embeddings with another temperature, too; may be given several times.",
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
    """Write RUN's model card (README.md) anew, with all its evaluations, and print it.

    With --support: how sharp the attention of captions over other clips is, and whether it finds clips of which the
    same is said; and, where the run has a decoder, how well it writes captions from their own weights and from those of
    others; left in RUN/eval/. The card needs no store, --support does.
    """
    if support:
        from supportset.train.analysis.support_analysis import describe, support_report

        result = support_report(run, store, split=split, temperatures=temperature, size=size, device=device)
        if as_json:
            print_json(result)
        else:
            click.echo(describe(result))
        return
    from supportset.train.model_card import CARD, write_card
    from supportset.train.run_folder import RunFolder

    folder = RunFolder(run)
    card = write_card(folder)
    if as_json:
        print_json({"run": run, "card": card})
    else:
        click.echo(card)
    click.echo(f"written: {folder.path / CARD}", err=True)
