"""``extract``: from annotations and videos to feature shards."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from supportset.commands.options import Auto, Part, ShardFormatName, Share, json_option, print_json, store_option


@click.command("extract")
@click.argument("dataset")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the annotation files.  [default: data/DATASET]"
)
@click.option("--videos", type=click.Path(path_type=Path), help="Folder of the videos.  [default: that of --data]")
@click.option("--name", help="Name in the store.  [default: DATASET; for 'folder' the folder's own name]")
@store_option
@click.option(
    "--backbone", "backbones", multiple=True, metavar="NAME", help="May be given several times; see `backbones`."
)
@click.option("--fps", type=float, help="Steps per second.  [default: 1]")
@click.option("--frames", type=int, help="Steps per clip, instead of --fps.")
@click.option("--max-steps", type=int, default=512, show_default=True, help="Longer clips are thinned evenly.")
@click.option("--stride", type=int, help="Distance of a window's frames, for clip models.  [default: 1]")
@click.option("--protocol", help="Only the clips of this protocol.")
@click.option("--split", help="Only the clips of this split.")
@click.option("--limit", type=int, help="Only the first N clips.")
@click.option("--shard", type=Part(), help="Only the i-th of n parts, for batch systems such as SLURM.")
@click.option(
    "--format", "shard_format", type=ShardFormatName(), default="zarr", show_default=True, help="Of the shards."
)
@click.option(
    "--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True, help="As stored."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the forward.",
)
@click.option(
    "--decoder",
    type=click.Choice(["auto", "pyav", "torchcodec", "nvdec"]),
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, pyav, torchcodec, or nvdec (torchcodec on CUDA).",
)
@click.option("--workers", type=int, help="Decode processes of each GPU.  [default: by cores]")
@click.option(
    "--batch-size",
    type=Auto(),
    default="auto",
    show_default=True,
    help="Steps of one forward; auto measures on a GPU.",
)
@click.option("--compile", is_flag=True, help="Have torch.compile translate the model: slow to start, then faster.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds a clip may make no progress.")
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
@click.option("--retry-failed", is_flag=True, help="Try clips again that failed before.")
@click.option("--on-error", type=click.Choice(["skip", "stop"]), default="skip", show_default=True)
@click.option("--on-damage", type=click.Choice(["keep", "drop"]), default="keep", show_default=True)
@click.option(
    "--max-failures",
    type=Share(),
    default="5%",
    show_default=True,
    help="More of the present clips failed: exit code 1.",
)
@click.option("--strict", is_flag=True, help="Anything missing, failed or damaged: exit code 1.")
@click.option("--annotations-only", is_flag=True, help="Write the dataset's tables and stop: for imported features.")
@json_option
@click.pass_context
def extract_command(
    ctx: click.Context,
    dataset: str,
    data: Path | None,
    videos: Path | None,
    name: str | None,
    store: str,
    backbones: tuple[str, ...],
    fps: float | None,
    frames: int | None,
    max_steps: int,
    stride: int | None,
    annotations_only: bool,
    as_json: bool,
    **run: Any,
) -> None:
    """Extract the features of DATASET's clips that the store does not have yet.

    DATASET is one of those that `datasets` lists; 'folder' takes a folder of your own. The same command goes on
    where an earlier run stopped.
    """
    from supportset.extract.readers.annotate import read_dataset
    from supportset.store.files import store_path

    found = read_dataset(dataset, data, videos, name, need_videos=not annotations_only)
    for note in found.annotations.notes:
        click.echo(f"{found.name}: {note}", err=True)
    if annotations_only:
        tables, path = found.write(store), store_path(store) / found.name
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
    execution = Execution(**run)
    pick_decoder(execution.decoder)
    check_places(execution)
    loaded = [load_backbone(backbone) for backbone in backbones or (DEFAULT_BACKBONE,)]
    tables = found.write(store)
    summaries = [
        extract(tables, store, found.videos_root, backbone, sampling, selection, execution) for backbone in loaded
    ]
    for summary in summaries:
        counts = ", ".join(f"{count:,} {status}" for status, count in summary.status.items())
        click.echo(f"{summary.dataset}: {counts} of {summary.clips:,} clips in {summary.seconds:.0f} s", err=True)
        click.echo(f"features: {summary.path}", err=True)
    if as_json:
        told = [summary.to_json() for summary in summaries]
        print_json(told[0] if len(told) == 1 else {"feature_sets": told})
    ctx.exit(max(summary.exit_code for summary in summaries))
