"""``search``: find the clips of a store that match a sentence."""

from __future__ import annotations

import click

from supportset.commands.options import device_option, json_option, print_json, store_option
from supportset.commands.plain_text import one_line
from supportset.store.errors import UsageError
from supportset.store.format.card import Recipe


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
    if not text.isascii() and text.encode("utf-8", "replace").decode("utf-8") != text:
        raise UsageError(f"the question {one_line(text)!r} is not UTF-8 text: set the terminal's locale to UTF-8")

    from supportset.search.trained import Texts, search

    def live_text(recipe: Recipe, given: str | None) -> Texts:
        from supportset.extract.pipeline.forward import pick_device
        from supportset.extract.text.encoders import live_features, load_recorded

        found = load_recorded(recipe, encoder or given)
        found.to(pick_device(device))
        return live_features(found)

    hits = search(
        run, text, k, store, dataset=dataset, protocol=protocol, split=split, device=device, live_text=live_text
    )
    if as_json:
        print_json({"query": text, "hits": [hit.to_json() for hit in hits]})
        return
    for place, hit in enumerate(hits, 1):
        part = "" if hit.start_s is None else f"  [{hit.start_s:g}-{hit.end_s:g} s]"
        where = one_line(hit.path) if hit.path else "(file not known)"
        click.echo(f"{place:>3}  {hit.score:6.3f}  {one_line(hit.clip_id)}  {where}{part}")
