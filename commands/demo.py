"""``demo``: the whole pipeline on a rendered world, from pixels to a picture of what was retrieved."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from supportset._program import program
from supportset.commands.options import device_option

SHOWN = 8  # queries on the contact sheet


class Stages:
    """Announces stages as they begin, and remembers how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Time one stage."""
        click.secho(f"\n== {name}: {what}", bold=True, err=True)
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder of everything that is written.",
)
@click.option("--config", default="demo", show_default=True, help="Configuration of the training: a file or a name.")
@device_option
def demo_command(out: Path, config: str, device: str) -> None:
    """Run everything on a small rendered world, from videos to a picture of results.

    A second run reuses the videos and the features, and trains again.
    """
    from supportset.train.config import load_config

    settings = load_config(config)  # a mistake ends the command before torch is loaded and anything is rendered

    from supportset.evaluate.evaluation import describe
    from supportset.extract.backbones import load_backbone
    from supportset.extract.decode.sampling import Sampling
    from supportset.extract.decode.thumbnails import MOST
    from supportset.extract.options import Execution
    from supportset.extract.readers.annotate import read_dataset
    from supportset.extract.run import extract
    from supportset.train.evaluate import evaluate
    from supportset.train.loop.training import train

    stages = Stages()
    data, store, run = out / "world", out / "features", out / "runs" / time.strftime("%Y%m%d-%H%M%S")
    with stages.stage("render", "moving shapes as real H.264 files, each with five captions"):
        world = read_dataset("demo", data, need_videos=False)
        for note in world.annotations.notes:
            click.echo(note, err=True)
        tables = world.write(store, replace=True)
    with stages.stage("extract", "frozen EfficientNet-Lite0 (ImageNet weights) over 4 frames a clip, into shards"):
        backbone = load_backbone("efficientnet_lite:0")
        execution = Execution(device=device, thumbnails=MOST)
        extract(tables, store, data, backbone, Sampling(frames=4), execution=execution)
    with stages.stage("train", "the support-set bottleneck and the text encoder, from the shards alone"):
        train(settings, store, run, device=device)
    with stages.stage("evaluate", "held-out clips, in combinations that training has not shown"):
        result = evaluate(run, store=store, device=device)
        click.echo(describe(result))
    with stages.stage("show", "a picture of queries and the clips found for them"):
        picture = _picture(run, store, data, out / "contact-sheet.png", result, device)

    chance = 100.0 / result["gallery"]
    score = result["t2v"]["R@1"]
    click.echo(
        f"\nR@1 {score:.1f} % text to video among {result['gallery']} held-out clips: {score / chance:.0f} x chance"
    )
    click.echo("\n".join(f"  {name:<9} {seconds:6.1f} s" for name, seconds in stages.seconds.items()))
    click.echo(f"  {'in all':<9} {sum(stages.seconds.values()):6.1f} s")
    for name, place in (("videos", data), ("features", store), ("run", run), ("picture", picture)):
        click.echo(f"{name:<9} {place}")
    click.echo("\n".join(f"{what}: {program()} {words}" for what, words in next_commands(run, store).items()))


def next_commands(run: Path, store: Path) -> dict[str, str]:
    """What to do with the run: a search on the terminal, and the page."""
    where, features = shlex.quote(str(run)), shlex.quote(str(store))
    return {
        "try": f'search {where} "two red balls roll to the left" --store {features}',
        "on a page": f"serve {where} --store {features} --open",
    }


def _picture(run: Path, store: Path, videos: Path, out: Path, result: dict[str, Any], device: str) -> Path:
    """The contact sheet: evenly chosen test queries, their five best clips, and which was right."""
    import pyarrow.parquet as pq

    from supportset.search import contact_sheet as sheet
    from supportset.search.run import open_run

    searcher = open_run(run, device).open_gallery(store, protocol=result["protocol"], split=result["split"])
    captions = searcher.dataset.split_captions(result["protocol"], result["split"])
    chosen = captions[:: max(1, len(captions) // SHOWN)][:SHOWN]
    rows = []
    table = pq.read_table(result["files"]["ranks"], filters=[("direction", "=", "t2v")])
    ranks = dict(zip(table["query_id"].to_pylist(), table["rank"].to_pylist(), strict=True))
    for caption, hits in zip(chosen, searcher.search([c.text for c in chosen]), strict=True):
        best = [
            sheet.Hit(
                hit.clip_id,
                videos / hit.path if hit.path else None,
                hit.score,
                hit.clip_id == caption.clip_id,
            )
            for hit in hits
        ]
        rows.append(sheet.SheetRow(caption.text, best, ranks[caption.caption_id]))
    subtitle = (
        f"protocol {result['protocol']}, split {result['split']}, gallery {result['gallery']} clips, "
        f"text to video R@1 {result['t2v']['R@1']:.1f} %"
    )
    return sheet.contact_sheet(rows, out, f"supportset demo: {len(rows)} queries and their five best clips", subtitle)
