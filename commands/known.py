"""``datasets``, ``backbones`` and ``protocols``: what is known, and what each needs."""

from __future__ import annotations

import click

from supportset.commands.options import json_option, print_json


@click.command("datasets")
@json_option
def datasets_command(as_json: bool) -> None:
    """Datasets that can be extracted, and the files that each expects."""
    from supportset.extract.readers import READERS

    if as_json:
        print_json({name: {"summary": r.summary, "expects": r.expects} for name, r in READERS.items()})
        return
    for name, reader in READERS.items():
        click.echo(f"{click.style(name, bold=True)}: {reader.summary}")
        click.echo(click.wrap_text(reader.expects, width=100, initial_indent="    ", subsequent_indent="    "))


@click.command("backbones")
@json_option
def backbones_command(as_json: bool) -> None:
    """Frozen visual backbones by name, and where the weights of each come from."""
    from supportset.extract.backbones import describe_backbones

    rows = describe_backbones()
    if as_json:
        print_json([{"name": name, "what": what, "needs": needs} for name, what, needs in rows])
        return
    for name, what, needs in rows:
        click.echo(f"{click.style(name, bold=True)}: {what}")
        click.echo(click.wrap_text(f"weights: {needs}", width=100, initial_indent="    ", subsequent_indent="    "))


@click.command("protocols")
@json_option
def protocols_command(as_json: bool) -> None:
    """Evaluation protocols, their splits, and the number of clips that each split must have."""
    from supportset.extract.readers import READERS

    if as_json:
        print_json({name: dict(reader.protocols) for name, reader in READERS.items()})
        return
    for dataset, reader in READERS.items():
        for protocol, splits in reader.protocols.items():
            sizes = ", ".join(f"{split} {'any' if size is None else f'{size:,}'}" for split, size in splits.items())
            click.echo(f"{click.style(protocol, bold=True)} ({dataset}): {sizes} clips")
