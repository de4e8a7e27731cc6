"""``search``: find the clips of a store that match a sentence."""

from __future__ import annotations

import click

from supportset.commands.options import device_option, json_option, print_json, store_option
from supportset.store.errors import printable


@click.command("search")
@click.argument("run", type=click.Path())
@click.argument("text")
@click.option("-k", default=5, show_default=True, help="How many clips.")
@click.option("--dataset", help="Another dataset of the store, with features of the same recipe.  [default: the run's]")
@click.option("--protocol", help="Search one split only: its protocol.")
@click.option("--split", help="Search one split only: its name.")
@click.option(
    "--encoder", metavar="NAME", help="Path of the text encoder, for a run on text features.  [default: as recorded]"
)
@store_option
@device_option
@json_option
def search_command(
    run: str,
    text: str,
    k: int,
    dataset: str | None,
    protocol: str | None,
    split: str | None,
    encoder: str | None,
    store: str,
    device: str,
    as_json: bool,
) -> None:
    """Find the clips of a store that match TEXT best, by a trained RUN."""
    from supportset.search.run import open_run
    from supportset.search.trained import check_query

    check_query([text], k)
    opened = open_run(run, device, text_encoder=encoder)
    searcher = opened.open_gallery(store, dataset=dataset, protocol=protocol, split=split)
    hits = searcher.search([text], k)[0]
    if as_json:
        print_json({"query": text, "left_out": searcher.left_out, "hits": [hit.to_json() for hit in hits]})
        return
    if searcher.left_out:
        click.echo(f"note: {searcher.left_out:,} clips are left out, as their videos are gone", err=True)
    for place, hit in enumerate(hits, 1):
        part = "" if hit.start_s is None else f"  [{hit.start_s:g}-{hit.end_s:g} s]"
        where = printable(hit.path) if hit.path else "(file not known)"
        click.echo(f"{place:>3}  {hit.score:6.3f}  {printable(hit.clip_id)}  {where}{part}")
