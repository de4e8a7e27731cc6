"""``search``: find the clips of a store that match a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from supportset.commands.options import (
    check_mode,
    device_option,
    json_option,
    pairing_of,
    print_json,
    store_option,
    zero_shot_options,
)
from supportset.store.errors import UsageError, printable

if TYPE_CHECKING:
    from supportset.search.retriever import Retriever


@click.command("search")
@click.argument("words", nargs=-1, metavar="[RUN] TEXT")
@click.option("-k", default=5, show_default=True, help="How many clips.")
@click.option(
    "--by",
    type=click.Choice(["clip", "moment"]),
    default="clip",
    show_default=True,
    help="Compare TEXT with whole clips, as eval does, or with the best part of each: a few seconds of a long video.",
)
@click.option("--dataset", help="Another dataset of the store, with features of the same recipe.  [default: the run's]")
@click.option("--protocol", help="Search one split only: its protocol.")
@click.option("--split", help="Search one split only: its name.")
@zero_shot_options
@click.option(
    "--encoder",
    metavar="NAME",
    help="Path of the text encoder or encoder pair on this machine.  [default: as recorded]",
)
@store_option
@device_option
@json_option
def search_command(
    words: tuple[str, ...],
    k: int,
    by: Literal["clip", "moment"],
    dataset: str | None,
    protocol: str | None,
    split: str | None,
    zero_shot: str | None,
    encoder: str | None,
    store: str,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the clips of a store that match TEXT best, by a trained RUN or, with --zero-shot, without training."""
    if len(words) > 2:
        raise UsageError(f"{len(words)} arguments are given: put the text in quotes")
    if not words:
        raise UsageError("give a RUN and a TEXT in quotes, or --zero-shot DATASET/FEATURES and a TEXT")
    run, text = (words[0], words[1]) if len(words) == 2 else (None, words[0])
    pairing = pairing_of(options)
    check_mode(run, zero_shot, {"dataset": dataset}, pairing)
    from supportset.search.searcher import Searcher, check_query

    check_query([text], k)
    retriever: Retriever
    if zero_shot:
        from supportset.search.zero_shot import open_zero_shot

        retriever = open_zero_shot(zero_shot, store, encoder=encoder, device=device, **pairing)
    else:
        from supportset.search.run import Run

        retriever = Run(str(run), device, encoder)
    searcher = Searcher(retriever, None if zero_shot else store, dataset=dataset, protocol=protocol, split=split)
    hits = searcher.search([text], k, by)[0]
    if as_json:
        print_json(
            {
                "query": text,
                "left_out": searcher.left_out,
                "hits": [hit.to_json() for hit in hits],
                "retriever": retriever.describe(),
            }
        )
        return
    if searcher.left_out:
        click.echo(f"note: {searcher.left_out:,} clips are left out, as their videos are gone", err=True)
    for place, hit in enumerate(hits, 1):
        where = printable(hit.path) if hit.path else "(file not known)"
        moments = ", ".join(_times(moment.start_s, moment.end_s) for moment in hit.moments if moment.end_s)
        click.echo(f"{place:>3}  {hit.score:6.3f}  {printable(hit.clip_id)}  {where}" + (moments and f"  {moments}"))


def _times(*seconds: float) -> str:
    """Format times as players show them: ``1:05.0-1:12.5``."""
    shown = []
    for each in seconds:
        minutes, rest = divmod(round(each, 1), 60)
        hours, minutes = divmod(int(minutes), 60)
        shown.append(f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}")
    return "-".join(shown)
