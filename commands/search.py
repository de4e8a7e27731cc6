"""``search``: find the clips of a store that match a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from supportset.commands.options import (
    check_mode,
    device_option,
    index_option,
    json_option,
    pairing_of,
    print_json,
    store_option,
    zero_shot_options,
)
from supportset.store.errors import UsageError, printable

if TYPE_CHECKING:
    from supportset.search.hits import By, Group
    from supportset.search.query import Term
    from supportset.search.retriever import Retriever


@click.command("search")
@click.argument("words", nargs=-1, metavar="[RUN] [QUERY]")
@click.option("-k", default=5, show_default=True, help="How many videos, or clips.")
@click.option("--image", "images", metavar="FILE", multiple=True, help="What looks like this image; repeatable.")
@click.option("--video", "videos", metavar="FILE", multiple=True, help="What looks like this video; repeatable.")
@click.option(
    "--like", metavar="CLIP_ID[@START-END]", multiple=True, help="What is like this clip, or its seconds; repeatable."
)
@click.option("--not", "without", metavar="TEXT", multiple=True, help="What not to find; repeatable.")
@click.option(
    "--where",
    metavar="'COLUMN OP VALUE'",
    multiple=True,
    help="Search the clips for which this holds, as 'duration < 10', 'folder = trip', 'name ~ beach' (contains); "
    "repeatable. An unknown column lists those that there are.",
)
@click.option(
    "--by",
    type=click.Choice(["clip", "moment"]),
    default="clip",
    show_default=True,
    help="Compare QUERY with whole clips, as eval does, or with the best part of each: a few seconds of a long video.",
)
@index_option
@click.option(
    "--group",
    type=click.Choice(["video", "clip"]),
    default="video",
    show_default=True,
    help="Clips cut from one video are one hit, or each is its own.",
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
@click.option(
    "--backbone",
    "backbones",
    metavar="NAME",
    multiple=True,
    help="Path of the visual encoder on this machine, for image and video files; once a feature set.  "
    "[default: as recorded]",
)
@store_option
@device_option
@json_option
def search_command(
    words: tuple[str, ...],
    k: int,
    images: tuple[str, ...],
    videos: tuple[str, ...],
    like: tuple[str, ...],
    without: tuple[str, ...],
    where: tuple[str, ...],
    by: By,
    index: str,
    group: Group,
    dataset: str | None,
    protocol: str | None,
    split: str | None,
    zero_shot: str | None,
    encoder: str | None,
    backbones: tuple[str, ...],
    store: str,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Find what matches QUERY best, by a trained RUN or, with --zero-shot, without training.

    QUERY is a text, taken as it is. A combination joins terms with + or -, each a text in double quotes, image:FILE,
    video:FILE or moment:CLIP_ID[@START-END], after an optional weight: '"beach" + 0.5*image:photo.jpg - "people"'. A
    text that begins with a double quote or such a term has quotes, too. --image, --video, --like and --not add terms.

    A score with a question mark is no better than those of unrelated texts; if all are, a line says so.
    """
    from supportset.search.filters import parse_filter
    from supportset.search.query import Query, Term, parse_moment, parse_query

    added = [
        *(Term("image", path) for path in images),
        *(Term("video", path) for path in videos),
        *map(parse_moment, like),
        *(Term("text", text, -1.0) for text in without),
    ]
    run, text = _split_words(words, zero_shot, [term for term in added if term.weight > 0])
    pairing = pairing_of(options)
    check_mode(run, zero_shot, {"dataset": dataset}, pairing)
    query = Query((*(parse_query(text).terms if text is not None else ()), *added))
    conditions = parse_filter(where)
    from supportset.search.index import check_index

    if by == "clip" and check_index(index) != "exact":
        raise UsageError(f"--index {index} needs --by moment")
    from supportset.search.hits import nothing_fits
    from supportset.search.searcher import Searcher, check_query

    check_query([query], k)
    retriever: Retriever
    if zero_shot:
        from supportset.search.zero_shot import open_zero_shot

        if len(backbones) > 1:
            raise UsageError("--backbone is given twice: --zero-shot has one feature set")
        retriever = open_zero_shot(
            zero_shot, store, encoder=encoder, device=device, backbone="".join(backbones) or None, **pairing
        )
    else:
        from supportset.search.run import Run

        retriever = Run(str(run), device, encoder, backbones)
    searcher = Searcher(retriever, None if zero_shot else store, dataset=dataset, protocol=protocol, split=split)
    hits = searcher.search([query], k, by, where=conditions, group=group, index=index)[0]
    notes = searcher.index(index).notes if by == "moment" else ()
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        print_json(
            {
                "query": str(query),
                "where": str(conditions),
                "left_out": searcher.left_out,
                "nothing_fits": nothing_fits(hits),
                "hits": [hit.to_json() for hit in hits],
                "retriever": retriever.describe(),
                "index": searcher.index(index).describe() if by == "moment" else None,
            }
        )
        return
    if searcher.left_out:
        click.echo(f"note: {searcher.left_out:,} clips are left out, as their videos are gone", err=True)
    if where and not hits:
        click.echo(f"no clip passes the filter {printable(str(conditions))}")
    elif nothing_fits(hits):
        among = f" where {printable(str(conditions))}" if where else ""
        rest = "; the best are no better than those of unrelated texts" if hits else ""
        click.echo(f"nothing in this library fits {printable(str(query))!r}{among}{rest}")
    for place, hit in enumerate(hits, 1):
        path = printable(hit.path) if hit.path else "(file not known)"
        moments = ", ".join(_times(moment.start_s, moment.end_s) for moment in hit.moments if moment.end_s)
        doubt = "?" if hit.fits is False else " "
        line = f"{place:>3}  {hit.score:6.3f}{doubt} {printable(hit.clip_id)}  {path}"
        click.echo(line + (moments and f"  {moments}"))


def _split_words(
    words: tuple[str, ...], zero_shot: str | None, others: Sequence[Term]
) -> tuple[str | None, str | None]:
    """The run and the text of the arguments; the text may be absent where there are other terms to look for."""
    if len(words) > 2:
        raise UsageError(f"{len(words)} arguments are given: put the text in quotes")
    if len(words) == 2:
        return words[0], words[1]
    one = words[0] if words else None
    if others:
        return (None, one) if zero_shot else (one, None)
    if not words:
        raise UsageError("give a RUN and a QUERY in quotes, or --zero-shot DATASET/FEATURES and a QUERY")
    return None, words[0]


def _times(*seconds: float) -> str:
    """Format times as players show them: ``1:05.0-1:12.5``."""
    shown = []
    for each in seconds:
        minutes, rest = divmod(round(each, 1), 60)
        hours, minutes = divmod(int(minutes), 60)
        shown.append(f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}")
    return "-".join(shown)
