"""How much of a device's pure forward rate the pipeline keeps: frames decoded already, and decoding included."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.extract.films import write_films
from benchmarks.extract.plan import Plan
from benchmarks.extract.store import dataset_of, run
from benchmarks.report import Figure, Row
from benchmarks.timing import Contender, interleave
from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.base import Backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.outcome import Outcome
from supportset.extract.pipeline.batch_size import pick_batch_size
from supportset.extract.pipeline.forward import describe_device, pick_device
from supportset.extract.pipeline.pipeline import Plan as Sizes
from supportset.extract.pipeline.pipeline import run_pool
from supportset.extract.pipeline.recipe import make_card, make_recipe
from supportset.extract.pipeline.recorder import Recorder
from supportset.extract.progress.progress import Progress
from supportset.extract.work.selection import Clip, Task
from supportset.extract.workers.decode_worker import ClipResult, Job, Setup
from supportset.extract.workers.pool import DecodePool, StepFrames
from supportset.store.write.writer import FeatureWriter, Source

_LEAST = 0.9
_STEPS = 50  # of a clip
_FPS = 2.0


class _DecodedFrames(DecodePool):
    """A pool whose frames are in memory: each clip is a view of them."""

    blocked = 0.0

    def __init__(self, setup: Setup, frames: np.ndarray) -> None:
        super().__init__(setup, workers=0)
        self._frames = frames

    def run(self, jobs: Iterator[Job]) -> Iterator[StepFrames | ClipResult]:
        """Yield the steps of all jobs."""
        for job in jobs:
            for step in range(_STEPS):
                if self._stopped:
                    return
                picture = self._frames[(job.number * _STEPS + step) % len(self._frames)]
                yield StepFrames(job.number, picture[None], step, step + 1)
            yield ClipResult(job.number, Outcome(), 0.0)


def measure(plan: Plan) -> Figure:
    """Rates of the same model on the same device, in turns."""
    place = pick_device(plan.device)
    backbone = _backbone(plan, place)
    precision = "bf16" if place.type == "cuda" else "fp32"
    backbone.to(place, precision)
    batch = pick_batch_size(backbone, 10**6)
    share = 1 if place.type == "cuda" else 20  # a CPU would take hours, to show no more than that it runs
    clips = max(2, plan.sizes.device_steps // share // _STEPS)
    films = write_films(
        plan.folder / "device", max(2, plan.sizes.device_films // share), plan.sizes.seconds, plan.sizes.shape
    )
    figure = Figure(
        "device",
        f"{backbone.name} in {precision} on {describe_device(place)}",
        sizes={"frames": clips * _STEPS, "batch": batch, "films": len(films), "fps": _FPS},
    )
    transform = backbone.frame_transform()
    chance = np.random.default_rng(0)
    frames = chance.integers(0, 256, (max(256, batch), transform.height, transform.width, 3), dtype=np.uint8)
    decoded: dict[str, float] = {}

    def forward(_: int) -> None:
        there = torch.from_numpy(frames[:batch]).to(place)
        for _ in range(-(-clips * _STEPS // batch)):
            backbone.forward(there)
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    def pipeline(number: int) -> None:
        _run_decoded(plan.folder / f"decoded-{number}-{time.monotonic_ns()}", backbone, frames, clips, batch, precision)

    def with_decoding(_: int) -> None:
        root = plan.folder / "with-decoding"
        since = time.perf_counter()
        summary = run(
            root,
            dataset_of(root, films),
            films,
            backbone,
            Sampling(fps=_FPS),
            device=plan.device,
            precision=precision,
            batch_size=batch,
        )
        decoded["frames"] = _steps_of(Path(summary.path))
        decoded["rate"] = decoded["frames"] / (time.perf_counter() - since)

    plan.tell(f"{backbone.name} on {describe_device(place)}: {plan.rounds} rounds of {clips * _STEPS:,} frames")
    timings = interleave({"model alone": Contender(forward), "pipeline": Contender(pipeline)}, plan.rounds)
    figure.timings.append(timings)
    whole = -(-clips * _STEPS // batch) * batch / (clips * _STEPS)  # the last batch of the model alone is full
    figure.rows.append(
        Row(
            "device.decoded/forward",
            "pipeline, frames decoded already",
            "the model alone",
            timings.ratio("model alone", "pipeline") / whole,
            at_least=_LEAST if place.type == "cuda" else None,
        )
    )
    with_decoding(0)
    rate = clips * _STEPS * whole / timings.median("model alone")
    figure.rows.append(
        Row("device.decoding/forward", "extract, decoding included", "the model alone", decoded["rate"] / rate)
    )
    figure.notes.append(
        f"frames/s: model alone {rate:,.0f}, pipeline with decoded frames "
        f"{clips * _STEPS / timings.median('pipeline'):,.0f}, extract with decoding {decoded['rate']:,.0f} (films of "
        f"{'x'.join(map(str, plan.sizes.shape))} at {_FPS:g} fps, decode workers started within the time)"
    )
    if place.type != "cuda":
        figure.notes.append("the GPU row is open: this ran on a CPU, where the model and the decoders share the cores")
    return figure


def _backbone(plan: Plan, place: torch.device) -> Backbone:
    """ViT-B/32 with random weights; without a GPU a model that a CPU can bear."""
    if place.type != "cuda":
        import timm

        name, file = "test_vit.r160_in1k", plan.folder / "small.pth"
        torch.save(timm.create_model(name, pretrained=False).state_dict(), file)
        return load_backbone(f"timm:{name}@{file}")
    import open_clip

    file = plan.folder / "vit-b-32.pth"
    torch.save(open_clip.create_model("ViT-B-32", pretrained=None).state_dict(), file)
    return load_backbone(f"open_clip:ViT-B-32/laion2b_s34b_b79k@{file}")


def _run_decoded(root: Path, backbone: Backbone, frames: np.ndarray, clips: int, batch: int, precision: str) -> None:
    """The run's own pipeline, recorder and writer, fed from memory."""
    sampling = Sampling(fps=1.0)
    sizes = Sizes.make(backbone, sampling, backbone.device, 1, 1, batch, 600.0)
    card = make_card(make_recipe(backbone, sampling, "float16"), str(backbone.device), precision, backbone.given)
    tasks = [Task(Clip(f"clip{number}", "none", None, None), Source("none", 0, 0)) for number in range(clips)]
    shown = Progress(clips, quiet=True)
    with (
        FeatureWriter(root, card) as writer,
        Recorder(writer, tasks, shown, True, True) as recorder,
        _DecodedFrames(sizes.setup, frames) as pool,
    ):
        run_pool(pool, (Job(number, "none") for number in range(clips)), backbone, sizes, recorder, shown)
        recorder.flush()


def _steps_of(path: Path) -> int:
    from supportset.store.read.feature_set import FeatureSet

    stored = FeatureSet.open(path)
    return int(stored.lengths(stored.clip_ids).sum())
