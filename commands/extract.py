"""``extract``: from annotations and videos to feature shards."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from supportset.commands.options import (
    Auto,
    Part,
    Share,
    Size,
    dtype_option,
    format_option,
    json_option,
    max_thumbnails_option,
    precision_option,
    print_json,
    store_option,
)
from supportset.commands.store_thumbnails import tell_thumbnails
from supportset.commands.store_transfer import SHOWN
from supportset.store.errors import printable

if TYPE_CHECKING:
    from supportset.store.format.dataset import Dataset


@click.command("extract")
@click.argument("dataset")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the annotation files.  [default: data/DATASET]"
)
@click.option("--videos", type=click.Path(path_type=Path), help="Folder of the videos.  [default: that of --data]")
@click.option("--name", help="Name in the store.  [default: DATASET; for 'folder' the folder's own name]")
@click.option("--replace", is_flag=True, help="Replace the dataset if another folder has this name in the store.")
@store_option
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME",
    help="A name that `backbones` lists, with #tokens[=N] for patch tokens; repeatable.  "
    "[default: open_clip:ViT-B-32/laion2b_s34b_b79k]",
)
@click.option("--fps", type=float, help="Steps per second.  [default: 1]")
@click.option("--frames", type=int, help="Steps per clip, instead of --fps.")
@click.option("--max-steps", type=int, default=512, show_default=True, help="Longer clips are thinned evenly.")
@click.option(
    "--stride", type=int, help="Frames from one frame of a window to the next, for clip models.  [default: 1]"
)
@click.option("--protocol", help="Only the clips of this protocol.")
@click.option("--split", help="Only the clips of this split.")
@click.option("--limit", type=int, help="Only the first N clips.")
@click.option("--shard", type=Part(), help="Only the i-th of n parts, for batch systems such as SLURM.")
@format_option
@dtype_option
@precision_option
@click.option(
    "--decoder",
    type=click.Choice(["auto", "pyav", "torchcodec", "nvdec"]),
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, pyav, torchcodec, or nvdec (torchcodec on CUDA).",
)
@click.option("--workers", type=int, help="Decoding processes a GPU.  [default: by cores]")
@click.option(
    "--batch-size",
    type=Auto(),
    default="auto",
    show_default=True,
    help="Steps encoded at once; auto measures on a GPU, and is 8 on a CPU.",
)
@click.option("--compile", is_flag=True, help="Compile the model with torch.compile: a slow start, then faster.")
@click.option(
    "--timeout",
    type=float,
    default=600.0,
    show_default=True,
    help="Seconds without progress, and of CPU time for each MB of its file, after which a clip fails.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto or cuda: all GPUs; cuda:0,cuda:1: these; cpu or mps.",
)
@click.option("--processes", type=int, metavar="N", help="Extraction processes.  [default: one a GPU]")
@click.option(
    "--ray", metavar="ADDRESS", help="Run on the Ray cluster at ADDRESS (auto, HOST:PORT), or on a local one: local."
)
@click.option(
    "--gone",
    type=click.Choice(["auto", "mark", "keep"]),
    default="auto",
    show_default=True,
    help="Clips with features whose videos are gone: mark leaves them out of search, eval and train, keep does not; "
    "auto marks them unless so many are gone that a disk may not be mounted.",
)
@click.option("--retry-failed", is_flag=True, help="Extract clips again that failed before.")
@click.option(
    "--on-error", type=click.Choice(["skip", "stop"]), default="skip", show_default=True, help="After a failed clip."
)
@click.option(
    "--on-damage",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="Features of damaged clips.",
)
@click.option(
    "--max-failures",
    type=Share(),
    default="5%",
    show_default=True,
    help="Exit with 1 if a larger share of the clips with a file failed.",
)
@click.option(
    "--thumbnails/--no-thumbnails",
    default=None,
    help="Store small pictures of the steps beside the features.  [default: for 'folder' only]",
)
@max_thumbnails_option
@click.option("--strict", is_flag=True, help="Exit with 1 if any clip is missing, failed or damaged.")
@click.option(
    "--max-disk",
    type=Size(),
    help="Most that the features may need, by the estimate at the start.  [default: 100GB, and what is free]",
)
@click.option("--annotations-only", is_flag=True, help="Write the dataset's tables and stop: for imported features.")
@json_option
@click.pass_context
def extract_command(
    ctx: click.Context,
    dataset: str,
    data: Path | None,
    videos: Path | None,
    name: str | None,
    replace: bool,
    store: str,
    backbones: tuple[str, ...],
    fps: float | None,
    frames: int | None,
    max_steps: int,
    stride: int | None,
    annotations_only: bool,
    gone: Literal["auto", "mark", "keep"],
    thumbnails: bool | None,
    max_thumbnails: int,
    as_json: bool,
    **run: Any,
) -> None:
    """Extract features of the clips of DATASET that the store does not have yet.

    DATASET is a name that `datasets` lists; 'folder' means a folder of your own videos. The same command resumes an
    interrupted run.
    """
    from supportset.extract.readers.annotate import read_dataset
    from supportset.store.files import store_path

    found = read_dataset(dataset, data, videos, name, need_videos=not annotations_only)
    for note in found.annotations.notes:
        click.echo(f"{found.name}: {note}", err=True)
    if not replace:
        found.refuse_other(store)
    if annotations_only:
        tables, path = found.write(store, replace=replace), store_path(store) / found.name
        click.echo(f"{found.name}: tables written below {path}", err=True)
        if as_json:
            counted = {"dataset": found.name, "path": str(path), "clips": len(tables.clips)}
            print_json(counted | {"captions": len(tables.captions), "protocols": tables.protocols()})
        return

    from supportset.extract.backbones import DEFAULT_BACKBONE, load_backbone
    from supportset.extract.decode.decoders import pick_decoder
    from supportset.extract.decode.sampling import Sampling
    from supportset.extract.options import Execution, Selection
    from supportset.extract.run import check_places, extract

    # All options are checked before the first write.
    sampling = Sampling(fps=fps, frames=frames, max_steps=max_steps, stride=stride)
    selection = Selection(**{field.name: run.pop(field.name) for field in fields(Selection)})
    pictures = max_thumbnails if (dataset == "folder" if thumbnails is None else thumbnails) else 0
    execution = Execution(**run, thumbnails=pictures)
    pick_decoder(execution.decoder)
    check_places(execution)
    loaded = [load_backbone(backbone) for backbone in backbones or (DEFAULT_BACKBONE,)]
    tables = found.write(store, gone, replace=replace)
    summaries = [
        extract(tables, store, found.videos_root, backbone, sampling, selection, execution) for backbone in loaded
    ]
    for summary in summaries:
        counts = ", ".join(f"{count:,} {status}" for status, count in summary.status.items())
        click.echo(f"{summary.dataset}: {counts} of {summary.clips:,} clips in {summary.seconds:.0f} s", err=True)
        click.echo(f"features: {summary.path}", err=True)
        if summary.thumbnails is not None:
            tell_thumbnails(summary.thumbnails)
    if tables.gone or any(summary.gone for summary in summaries):
        suspects = {clip_id for summary in summaries for clip_id in summary.gone}
        _tell_gone(found.write(store, gone, suspects, replace=replace))
    if as_json:
        told = [summary.to_json() for summary in summaries]
        print_json(told[0] if len(told) == 1 else {"feature_sets": told})
    ctx.exit(max(summary.exit_code for summary in summaries))


def _tell_gone(tables: Dataset) -> None:
    """Tell which clips have no video any more."""
    if not tables.gone:
        return
    count = len(tables.gone)
    click.echo(
        f"{tables.name}: the videos of {count:,} clips with features are gone, or are other files now: search, eval "
        f"and train leave them out; `store prune {tables.name}` removes their features",
        err=True,
    )
    for clip_id in sorted(tables.gone)[:SHOWN]:
        click.echo(f"  {printable(clip_id)}", err=True)
    if count > SHOWN:
        click.echo(f"  ... and {count - SHOWN:,} more: --json lists them", err=True)
