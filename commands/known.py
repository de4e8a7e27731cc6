"""``datasets``, ``backbones`` and ``protocols``: what is known, and what each needs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from supportset.commands.options import json_option, print_json, store_option
from supportset.store.errors import UsageError, printable_lines


@click.group("datasets", invoke_without_command=True)
@json_option
@click.pass_context
def datasets_command(context: click.Context, as_json: bool) -> None:
    """List the datasets that can be extracted, and the files that each expects."""
    if context.invoked_subcommand:
        return
    from supportset.extract.readers import list_readers

    readers = list_readers()
    if as_json:
        print_json({reader.name: {"summary": reader.summary, "expects": reader.expects} for reader in readers})
        return
    for reader in readers:
        click.echo(f"{click.style(reader.name, bold=True)}: {reader.summary}")
        click.echo(click.wrap_text(reader.expects, width=100, initial_indent="    ", subsequent_indent="    "))


@datasets_command.command("leakage")
@click.argument("name")
@click.option("--protocol", help="Of the dataset.  [default: all that have a split of that name]")
@click.option("--split", default="test", show_default=True, help="The split that is evaluated.")
@click.option("--train", default="train", show_default=True, help="The split that is trained on.")
@click.option(
    "--similarity",
    type=float,
    default=0.8,
    show_default=True,
    help="Captions are near-duplicates from this share of common words on (Jaccard index).",
)
@click.option("--features", metavar="NAME", help="Compare also the features of clips: words of a feature set's name.")
@click.option(
    "--cosine",
    type=float,
    default=0.98,
    show_default=True,
    help="Of --features: clips are near-duplicates from this cosine of their means on.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Read the dataset from its annotation files in this folder; no store is needed.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write complete lists (CSV) and counts into this folder.")
@store_option
@json_option
def leakage_command(
    name: str,
    protocol: str | None,
    split: str,
    train: str,
    similarity: float,
    features: str | None,
    cosine: float,
    data: Path | None,
    out: Path | None,
    store: str,
    as_json: bool,
) -> None:
    """Count and list what the test split of dataset NAME shares with its training split.

    Clips that share a source video, captions that occur on both sides word for word or nearly, and with --features
    clips that look alike.
    """
    from supportset.evaluate.leakage_report import comparable, find_leakage
    from supportset.store.format.dataset import open_dataset
    from supportset.store.read.catalog import find_feature_set

    if data is None:
        tables = open_dataset(store, name)
    elif features:
        raise click.UsageError("--features are of a store: leave out --data")
    else:
        from supportset.extract.readers.annotate import read_dataset

        with TemporaryDirectory() as folder:
            tables = read_dataset(name, data, need_videos=False).write(folder)
    compared = None if features is None else find_feature_set(store, f"{name}/{features}", "video")
    protocols = [protocol] if protocol else [p for p in tables.protocols() if comparable(tables, p, train, split)]
    if not protocols:
        raise UsageError(
            f"{name}: no protocol has clips in both splits, {train!r} and {split!r}: give --split, --train"
        )
    found = [
        find_leakage(tables, each, split, train=train, similarity=similarity, features=compared, cosine=cosine)
        for each in protocols
    ]
    if as_json:
        print_json([leakage.to_json(examples=10) for leakage in found])
    else:
        click.echo("\n\n".join(printable_lines(leakage.describe()) for leakage in found))
    for path in [path for leakage in found for path in leakage.write(out)] if out else []:
        click.echo(f"written: {path}", err=True)


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
