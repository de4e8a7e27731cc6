"""``datasets``, ``backbones`` and ``protocols``: what is known, and what each needs."""

from __future__ import annotations

import click

from supportset.commands.options import json_option, print_json


@click.command("datasets")
@json_option
def datasets_command(as_json: bool) -> None:
    """List the datasets that can be extracted, and the files that each expects."""
    from supportset.extract.readers import list_readers

    readers = list_readers()
    if as_json:
        print_json({reader.name: {"summary": reader.summary, "expects": reader.expects} for reader in readers})
        return
    for reader in readers:
        click.echo(f"{click.style(reader.name, bold=True)}: {reader.summary}")
        click.echo(click.wrap_text(reader.expects, width=100, initial_indent="    ", subsequent_indent="    "))


@click.command("backbones")
@click.option("--text", is_flag=True, help="List text encoders instead.")
@json_option
def backbones_command(text: bool, as_json: bool) -> None:
    """List frozen visual backbones, or text encoders, and where their weights are from."""
    from supportset.extract.backbones import BACKBONES
    from supportset.extract.text.encoders import TEXT_ENCODERS

    rows = (TEXT_ENCODERS if text else BACKBONES).describe()
    if as_json:
        print_json([{"name": name, "what": what, "needs": needs} for name, what, needs in rows])
        return
    for name, what, needs in rows:
        click.echo(f"{click.style(name, bold=True)}: {what}")
        click.echo(click.wrap_text(f"weights: {needs}", width=100, initial_indent="    ", subsequent_indent="    "))


@click.command("protocols")
@json_option
def protocols_command(as_json: bool) -> None:
    """List evaluation protocols: the sizes of their splits, what a query is, and where the list is from."""
    from supportset.evaluate.protocols import PROTOCOLS
    from supportset.extract.readers import list_readers

    readers = list_readers()
    listed = [protocol for protocol in PROTOCOLS.values() if protocol.within]
    if as_json:
        sizes = {reader.name: dict(reader.protocols) for reader in readers}
        galleries = {each.name: {"clips": each.clips, "within": each.within} for each in listed}
        print_json(sizes | {"galleries": galleries})
        return
    for reader in readers:
        for name, splits in reader.protocols.items():
            counts = ", ".join(f"{split} {'any' if size is None else f'{size:,}'}" for split, size in splits.items())
            click.echo(f"{click.style(name, bold=True)} ({reader.name}): {counts} clips")
            if name in PROTOCOLS:
                known = PROTOCOLS[name]
                queries = "queries" if known.queries is None else f"{known.queries:,} queries"
                click.echo(f"    {queries}: {known.captions}; from {known.source}")
    for each in listed:
        click.echo(
            f"{click.style(each.name, bold=True)} ({each.dataset}): {each.clips:,} of {each.within}, listed with "
            f"--gallery; from {each.source}"
        )
