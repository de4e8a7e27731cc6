"""The paper's full size on a GPU: steps a second, memory, what bounds them, and how long its 20 epochs would take."""

from __future__ import annotations

import math

import torch

from benchmarks.report import Figure, Row
from benchmarks.train.configurations import PAPER, paper, write_t5
from benchmarks.train.data import Prepared
from benchmarks.train.loader_wait import MOST, SHARE, run
from benchmarks.train.made_up import captions_of, write_videos
from benchmarks.train.plan import Plan
from benchmarks.train.ways import Bench, Way
from supportset.train.config import load_config
from supportset.train.device import choose_device

MINUTES = 60.0
_BUCKET = 16
_CLIPS = 9_000  # of MSR-VTT 1k-A's training side
_CAPTIONS = 20  # each


def measure(plan: Plan, prepared: Prepared) -> Figure:
    """Runs of the training loop with T5-base; on a CPU only with ``--quick``, to show that it runs."""
    sizes, device = plan.sizes, choose_device(plan.device)
    figure = Figure("full", "The paper's full size: T5-base, bf16")
    if device.type != "cuda" and not plan.quick:
        figure.notes.append("left out: it takes a GPU, and PyTorch sees none here or was told to use the CPU")
        return figure
    captions, source = captions_of(sizes.full_clips, _CAPTIONS, plan.real)
    plan.tell(f"writing {sizes.full_clips:,} clips and a T5 of random weights")
    root = plan.folder / "full"
    write_videos(root, captions, sizes.steps, sizes.dims)
    texts = [text for each in captions for text in each]
    t5 = write_t5(plan.folder / "t5-full", sizes.full, sizes.vocabulary, texts, plan.real)
    config = paper(t5, sizes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    figure.title += f", on {name}"
    figure.sizes = {"clips": sizes.full_clips, "captions": len(texts), "batch": sizes.batch, "steps": sizes.full_steps}

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    plan.tell(f"{sizes.full_steps} steps of the training loop")
    found = run(config, root, plan.folder / "run", sizes.full_steps, plan.device)
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    plan.tell(f"the same, {_BUCKET} batches cut together by length")
    bucketed = paper(t5, sizes, data={"bucket": _BUCKET})
    faster = run(bucketed, root, plan.folder / "run", sizes.full_steps, plan.device)

    shipped = load_config(PAPER)
    trained = _CAPTIONS * round(_CLIPS * (1 - shipped.data.holdout))
    steps = math.ceil(trained / shipped.optim.batch_size)
    whole = steps * shipped.optim.epochs
    gpu = device.type == "cuda"
    figure.rows += [
        Row("full.rate", "steps a second", "", 1 / found.step_s, "steps/s"),
        Row("full.rate_bucketed", f"the same with data.bucket = {_BUCKET}", "", 1 / faster.step_s, "steps/s"),
        Row(
            *("full.time", f"the paper's {shipped.optim.epochs} epochs of MSR-VTT 1k-A, extrapolated", ""),
            *(whole * found.step_s / 60, "minutes"),
            at_most=MINUTES if gpu else None,
        ),
        Row("full.memory", "most GPU memory allocated", "", memory, "GB"),
        Row("full.wait", "waiting for the loader", "", 100 * found.share, SHARE, at_most=MOST if gpu else None),
    ]
    bench = Bench(config, root, plan.folder, min(_BUCKET, sizes.full_steps), device)
    way = Way(bucketed=False, half=True)
    bench.parts(way, 0)  # the first steps are slower
    parts = bench.parts(way, 1)
    computed = 100 * (1 - found.share) / sum(parts.values())
    figure.rows += [
        Row(f"full.{part}", f"{part} (device waited for after each part)", "", computed * seconds, SHARE)
        for part, seconds in parts.items()
    ]
    figure.notes += [
        f"an epoch shows every caption once: {_CLIPS:,} clips less the {shipped.data.holdout:.0%} held out, with "
        f"{_CAPTIONS} captions each, are {trained:,} captions, {steps:,} steps of {shipped.optim.batch_size}, "
        f"{whole:,} in {shipped.optim.epochs} epochs; were an epoch one caption a clip, it would be a {_CAPTIONS}th of "
        "that. Validation and checkpoints after each epoch are not in it",
        f"{found.steps} steps of the loop that count, {source}; what bounds it: {max(parts, key=parts.__getitem__)}",
    ]
    if not gpu:
        figure.notes.append("the GPU row is open: this ran on a CPU, with tiny sizes, to show that the script runs")
    return figure
