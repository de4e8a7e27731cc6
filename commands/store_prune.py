"""``store prune``: remove the features of clips whose videos are gone."""

from __future__ import annotations

import click

from supportset.commands.options import json_option, print_json, store_option
from supportset.commands.store_transfer import SHOWN
from supportset.store.errors import SupportsetError, printable


@click.command("prune")
@click.argument("words", metavar="DATASET[/WORDS]")
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@json_option
def prune_command(words: str, dry_run: bool, yes: bool, store: str, as_json: bool) -> None:
    """Remove the features of clips whose videos are gone, as the last `extract` of the dataset found.

    All feature sets of DATASET, or the one that DATASET/WORDS names. If the videos are back, run `extract` first.
    """
    from supportset.store.format.dataset import open_dataset
    from supportset.store.maintain.prune import plan_pruning, prune
    from supportset.store.read.catalog import list_feature_sets, locate_feature_set

    name, _, rest = words.strip().partition("/")
    dataset = open_dataset(store, name)
    sets = [locate_feature_set(store, words, "video")] if rest.strip() else list_feature_sets(store, name)
    of_clips = [info for info in sets if info.card.recipe.kind == "video"]
    plans = [plan for info in of_clips if (plan := plan_pruning(info.path, dataset.gone)).clips]
    clips = sorted({clip_id for plan in plans for clip_id in plan.clips})
    size = f"{sum(plan.bytes for plan in plans) / 1e6:,.1f} MB in {len(plans):,} feature set{'s' * (len(plans) != 1)}"
    if clips and not (dry_run and as_json):
        click.echo(f"{name}: the videos of {len(clips):,} clips are gone: {size}", err=not dry_run)
        for clip_id in clips[:SHOWN]:
            click.echo(f"  {printable(clip_id)}", err=not dry_run)
        if len(clips) > SHOWN:
            click.echo(f"  ... and {len(clips) - SHOWN:,} more: --dry-run --json lists them", err=not dry_run)
    if clips and not dry_run and not yes:
        click.confirm("Remove their features?", abort=True, err=True)
    done = plans if dry_run else [prune(plan.path, plan.clips) for plan in plans]
    if as_json:
        print_json({"dataset": name, "dry_run": dry_run, "feature_sets": [each.to_json() for each in done]})
    elif not clips:
        click.echo(f"{name}: no features of clips whose videos are gone")
    elif not dry_run:
        for each in done:
            click.echo(f"removed {len(each.clips):,} clips, {each.bytes / 1e6:,.1f} MB: {each.path}")
    damaged = [line for each in done for line in each.damaged]
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)
    if damaged:
        raise SupportsetError(f"{name}: {len(damaged):,} damaged shards are left as they are: see above")
