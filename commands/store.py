"""``store``: look into a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from supportset.commands.options import json_option, print_json, store_option
from supportset.commands.store_prune import prune_command
from supportset.commands.store_thumbnails import thumbnails_command
from supportset.commands.store_transfer import convert_command, export_command, import_command
from supportset.commands.store_upkeep import compact_command, rm_command, verify_command
from supportset.store.errors import SupportsetError, UsageError, printable


@click.group("store")
def store_command() -> None:
    """List, show, verify, import, export, convert, compact, prune and remove feature sets; make their thumbnails."""


for _command in (
    verify_command,
    import_command,
    export_command,
    convert_command,
    thumbnails_command,
    compact_command,
    prune_command,
    rm_command,
):
    store_command.add_command(_command)


@store_command.command("ls")
@store_option
@json_option
@click.pass_context
def ls_command(ctx: click.Context, store: str, as_json: bool) -> None:
    """List the datasets and feature sets of a store."""
    from supportset.store.files import open_folder, store_path
    from supportset.store.format.dataset import list_datasets
    from supportset.store.read.catalog import list_feature_sets

    path = store_path(store)
    if not (path.is_dir() if isinstance(path, Path) else open_folder(path).names()):
        raise UsageError(f"{store}: no such store: `extract` makes one, --store names another")
    problems: list[SupportsetError] = []
    listing: dict[str, list[dict[str, Any]]] = {name: [] for name in list_datasets(store, problems)}
    for info in list_feature_sets(store, errors=problems):
        try:
            feature_set = info.open()
        except SupportsetError as error:  # the others are still listed
            problems.append(error)
            continue
        recipe = feature_set.card.recipe
        listing.setdefault(info.dataset, []).append(
            {
                "name": info.name,
                "kind": recipe.kind,
                "backbone": recipe.backbone,
                "dim": recipe.dim,
                "dtype": recipe.dtype,
                "status": feature_set.statuses(),
            }
        )
    for problem in problems:
        click.echo(f"damaged: {problem}", err=True)
    if as_json:
        print_json(listing)
        ctx.exit(1 if problems else 0)
    if not listing:
        click.echo(f"{store}: no datasets here; `extract` makes them")
    for dataset, sets in listing.items():
        click.echo(click.style(printable(dataset), bold=True) + ("" if sets else ": no features yet"))
        for entry in sets:
            counts = ", ".join(f"{count:,} {status}" for status, count in entry["status"].items()) or "empty"
            kind = "text, " if entry["kind"] == "text" else ""
            click.echo(printable(f"  {dataset}/{entry['name']}  {kind}{entry['dim']} x {entry['dtype']}  {counts}"))
    ctx.exit(1 if problems else 0)


@store_command.command("show")
@click.argument("words", metavar="SET")
@click.option("--failures", default=10, show_default=True, help="How many failed clips to list.")
@store_option
@json_option
def show_command(words: str, failures: int, store: str, as_json: bool) -> None:
    """Show the recipe, the outcome of every clip and the size of a feature set.

    SET is DATASET/WORDS: a dataset, and words of the feature set's name.
    """
    from supportset.store.read.catalog import find_feature_set
    from supportset.store.read.show import describe_feature_set, feature_set_json

    feature_set = find_feature_set(store, words)
    if as_json:
        print_json(feature_set_json(feature_set))
        return
    click.echo(describe_feature_set(feature_set, failures))
