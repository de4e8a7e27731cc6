"""``index``: bring an index over the parts of all clips up to date, before it is searched."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from supportset.search.retriever import Clips, Retriever


@click.command("index")
@click.argument("run", required=False)
@index_option
@click.option("--dataset", help="Another dataset of the store, with features of the same recipe.  [default: the run's]")
@zero_shot_options
@click.option(
    "--encoder",
    metavar="NAME",
    help="Path of the text encoder or encoder pair on this machine.  [default: as recorded]",
)
@store_option
@device_option
@json_option
def index_command(
    run: str | None,
    index: str,
    dataset: str | None,
    zero_shot: str | None,
    encoder: str | None,
    store: str,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Bring the index of `search --by moment` up to date, for a trained RUN or, with --zero-shot, without training.

    New and changed clips are added, clips that are gone are removed. `search` does that itself for exact and usearch;
    a table of LanceDB is only written here, and read by any machine that has the store.
    """
    from supportset.search.index import check_index

    pairing = pairing_of(options)
    check_mode(run, zero_shot, {"dataset": dataset}, pairing)
    check_index(index)
    retriever: Retriever
    if zero_shot:
        from supportset.search.zero_shot import open_zero_shot

        retriever = open_zero_shot(zero_shot, store, encoder=encoder, device=device, **pairing)
    else:
        from supportset.search.run import Run

        retriever = Run(str(run), device, encoder)
    clips = retriever.open_clips(None if zero_shot else store, dataset)
    told, notes = _update(retriever, clips, index)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        print_json({**told, "dataset": clips.dataset.name, "notes": list(notes)})
    else:
        counts = ", ".join(f"{told[name]:,} {name}" for name in ("clips", "parts", "added", "removed") if name in told)
        click.echo(f"{index}: {counts}")


def _update(retriever: Retriever, clips: Clips, index: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the index holds now, by name, and notes."""
    from supportset.search.index import open_index

    if index.startswith("lancedb:"):
        from supportset.search.index.lance_table import LanceTable

        done = LanceTable(retriever, clips, index.partition(":")[2]).export()
        return {"index": "lancedb", **vars(done)}, ()
    opened = open_index(retriever, clips, index)
    return {**opened.describe(), "clips": len(opened)}, opened.notes
