"""``extract-text``: from the captions of a dataset to features of a frozen text encoder."""

from __future__ import annotations

from typing import Any

import click

from supportset.commands.options import (
    device_option,
    dtype_option,
    format_option,
    json_option,
    precision_option,
    print_json,
    store_option,
)


@click.command("extract-text")
@click.argument("dataset")
@click.option(
    "--encoder",
    required=True,
    metavar="NAME",
    help="A name that `backbones --text` lists, the hub name or folder of a transformers encoder, or "
    "tower:FEATURES, the text tower of the encoder that made FEATURES.",
)
@store_option
@click.option("--max-tokens", type=int, help="Longer captions are cut.  [default: 32; in a tower its own]")
@click.option(
    "--pooling",
    type=click.Choice(["none", "mean", "first"]),
    help="One vector a token, or their mean, or the first token's.  [default: none]",
)
@click.option("--protocol", help="Only the captions of this protocol.")
@click.option("--split", help="Only the captions of this split.")
@click.option("--limit", type=int, help="Only the first N captions.")
@format_option
@dtype_option
@precision_option
@click.option("--batch-size", type=int, help="Captions encoded at once.  [default: by device]")
@device_option
@json_option
@click.pass_context
def extract_text_command(
    ctx: click.Context,
    dataset: str,
    encoder: str,
    store: str,
    max_tokens: int | None,
    pooling: str | None,
    as_json: bool,
    **run: Any,
) -> None:
    """Extract features of the captions of DATASET with a frozen text encoder.

    DATASET is in the store already. Training reads the features where the configuration names them in text.features.
    The same command resumes an interrupted run, and extracts captions again whose text has changed.
    """
    from supportset.store.format.dataset import open_dataset

    tables = open_dataset(store, dataset)

    from supportset.extract.pipeline.forward import pick_device
    from supportset.extract.text.encoders import load_named
    from supportset.extract.text.run import extract_text

    pick_device(run["device"])
    summary = extract_text(tables, store, load_named(encoder, store, dataset, max_tokens, pooling), **run)
    counts = ", ".join(f"{count:,} {status}" for status, count in summary.status.items())
    click.echo(f"{summary.dataset}: {counts} of {summary.captions:,} captions in {summary.seconds:.0f} s", err=True)
    click.echo(f"features: {summary.path}", err=True)
    if as_json:
        print_json(summary.to_json())
    ctx.exit(summary.exit_code)
