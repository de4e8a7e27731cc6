"""``caption``: write captions of clips with a run's decoder."""

from __future__ import annotations

import click

from supportset.commands.options import device_option, json_option, print_json, store_option
from supportset.store.errors import printable


@click.command("caption")
@click.argument("run", type=click.Path())
@click.option("--split", help="A split of the protocol.  [default: test]")
@click.option("--clips", "clip_ids", multiple=True, metavar="ID", help="These clips instead of a split; repeatable.")
@click.option("--protocol", help="[default: the run's]")
@click.option("--dataset", help="Another dataset of the store, with features of the same recipe.  [default: the run's]")
@click.option("--beams", type=click.IntRange(1), default=5, show_default=True, help="Width of the beam search.")
@click.option("--force", is_flag=True, help="Also if the decoder was never trained on a clip's own codes alone.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write JSON lines here: clip_id, caption, score.")
@store_option
@device_option
@json_option
def caption_command(
    run: str,
    split: str | None,
    clip_ids: tuple[str, ...],
    protocol: str | None,
    dataset: str | None,
    beams: int,
    force: bool,
    out: str | None,
    store: str,
    device: str,
    as_json: bool,
) -> None:
    """Write one caption for each clip with the decoder of RUN.

    The run must have been trained with support.captioning = identity or hybrid. The score is the mean log-likelihood of
    the caption's tokens.
    """
    from supportset.train.caption import caption, write_lines

    found = caption(
        run,
        store,
        split=split,
        clips=clip_ids,
        protocol=protocol,
        dataset=dataset,
        beams=beams,
        force=force,
        device=device,
    )
    if out:
        write_lines(found, out)
    if as_json:
        print_json(
            {"run": run, "beams": beams, "captions": [vars(each) for each in found.written], "missing": found.missing}
        )
    elif not out:
        for each in found.written:
            click.echo(f"{each.score:7.3f}  {printable(each.clip_id)}  {printable(each.caption)}")
    if found.missing:
        click.echo(f"{len(found.missing)} clips have no features (the first: {printable(found.missing[0])})", err=True)
    if out:
        click.echo(f"{len(found.written):,} captions written to {out}", err=True)
