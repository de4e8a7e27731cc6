"""``store thumbnails``: make the thumbnails of clips that were extracted without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from supportset.commands.options import (
    Share,
    format_option,
    json_option,
    max_thumbnails_option,
    print_json,
    store_option,
)
from supportset.commands.store_transfer import SHOWN
from supportset.store.errors import SupportsetError, printable


@click.command("thumbnails")
@click.argument("words", metavar="SET")
@click.option(
    "--videos", type=click.Path(path_type=Path), help="Folder of the videos.  [default: where `extract` read them]"
)
@max_thumbnails_option
@click.option("--workers", type=click.IntRange(1), help="Decoding processes.  [default: one a core]")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds without progress, and of CPU time for each MB of its file, after which a clip fails.",
)
@click.option("--retry-failed", is_flag=True, help="Decode clips again whose thumbnails failed before.")
@click.option(
    "--max-failures",
    type=Share(),
    default="5%",
    show_default=True,
    help="Exit with 1 if a larger share of the clips that were to do failed.",
)
@format_option
@store_option
@json_option
def thumbnails_command(
    words: str,
    videos: Path | None,
    max_thumbnails: int,
    workers: int | None,
    timeout: float,
    retry_failed: bool,
    max_failures: float,
    shard_format: str,
    store: str,
    as_json: bool,
) -> None:
    """Make the thumbnails of clips that have features and no thumbnails of their video.

    SET is DATASET/WORDS: a dataset, and words of the feature set's name. The same command resumes an interrupted run.
    """
    from supportset.extract.thumbnails import make_thumbnails
    from supportset.store.format.dataset import open_dataset
    from supportset.store.read.catalog import locate_feature_set

    info = locate_feature_set(store, words, "video")
    dataset = open_dataset(store, info.dataset)
    made = make_thumbnails(
        dataset,
        info.path,
        videos or _recorded_videos(dataset.info.get("origin")) or Path("data") / info.dataset,
        most=max_thumbnails,
        workers=workers,
        timeout=timeout,
        shard_format=shard_format,
        retry_failed=retry_failed,
    )
    told = made.to_json()
    if as_json:
        print_json({"dataset": info.dataset, "feature_set": info.name, **told})
    tell_thumbnails(told)
    for clips, why in ((made.missing, "have no video there"), (made.changed, "have another video: `extract` first")):
        if clips:
            click.echo(f"note: {len(clips):,} clips {why}", err=True)
            _list(clips)
    failed = sum(not failure.kept for failure in made.failures)
    if failed > max_failures * (made.made + failed):
        raise SupportsetError(
            f"{made.path}: {failed:,} of {made.made + failed:,} clips have no thumbnails, more than "
            f"{max_failures:.0%} (--max-failures): see the messages above"
        )


def tell_thumbnails(told: dict[str, Any]) -> None:
    """Tell on standard error what a ``ThumbnailSummary`` says, as JSON."""
    click.echo(
        f"thumbnails: {told['pictures']:,} pictures of {told['made']:,} clips, {told['bytes'] / 1e6:,.1f} MB in "
        f"{told['seconds']:.0f} s; {told['done']:,} clips had theirs; in {printable(told['path'])}",
        err=True,
    )
    _list([f"{each['clip_id']}: {each['status']}, {each['message']}" for each in told["failures"]])


def _recorded_videos(origin: Any) -> Path | None:
    """The folder that the dataset's videos were read from, where the store knows it and it is there."""
    path = Path(str(origin["videos"])) if isinstance(origin, dict) and origin.get("videos") else None
    return path if path is not None and path.is_dir() else None


def _list(lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        click.echo(printable(f"  {line}"), err=True)
    if len(lines) > SHOWN:
        click.echo(f"  ... and {len(lines) - SHOWN:,} more: --json lists them", err=True)
