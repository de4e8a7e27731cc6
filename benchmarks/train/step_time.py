"""A training step beside the straightforward one on the same model and captions, and what the gain is made of."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import torch

from benchmarks.report import THE_TIME, Figure, Row
from benchmarks.timing import Contender, interleave
from benchmarks.train.configurations import paper
from benchmarks.train.data import Prepared
from benchmarks.train.plan import Plan
from benchmarks.train.ways import Bench, Way
from supportset.train.device import choose_device

_LEAST = 2.0
_OURS, PLAIN, _SHIPPED = "ours", "the straightforward version", "ours, batches cut at random"
_FLOAT32 = "float32"
_CHANGES = {
    "clip_padding": ("clips padded to the longest of the dataset", {"short_clips": False}),
    "caption_padding": ("captions padded to {words} tokens", {"short_captions": False}),
    "decoder": ("the library's decoder, logits and cross entropy for every position", {"own_decoder": False}),
    "packing": ("the encoders compute on padding too", {"packed": False}),
    "cheap": ("PyTorch's dropout, and the AdamW that it has unless told otherwise", {"cheap": False}),
    "memory": ("features from .npy by a DataLoader", {"in_memory": False}),
}
STILL = {"video": {"dropout": 0.0}, "text": {"dropout": 0.0, "encoder_dropout": False}, "decoder": {"dropout": 0.0}}


def measure(plan: Plan, prepared: Prepared) -> Figure:
    """Check that the losses are equal, then time whole rounds of steps in turns."""
    sizes, device = plan.sizes, choose_device(plan.device)
    half = device.type == "cuda"
    figure = Figure("step", f"A training step on {_place(device)}, T5-small, everything else the paper's")
    if plan.quick:
        figure.title = f"A training step on {_place(device)}"
    t5 = prepared.small_t5
    ours = Way(half=half)
    plain = Way(**dict.fromkeys((field.name for field in fields(Way)), False))
    words = paper(t5, sizes).data.max_tokens
    ways = {_OURS: ours, _SHIPPED: replace(ours, bucketed=False), PLAIN: plain}
    ways |= {says.format(words=words): replace(ours, **switched) for says, switched in _CHANGES.values()}
    if half:
        ways[_FLOAT32] = replace(ours, half=False)

    plan.tell("checking that every way has the same loss and gradient")
    check(Bench(paper(t5, sizes, **STILL), prepared.videos, prepared.npy, sizes.bucket, device), ways)
    bench = Bench(paper(t5, sizes), prepared.videos, prepared.npy, sizes.bucket, device)
    parameters = sum(each.numel() for each in bench.model.parameters() if each.requires_grad)
    figure.sizes = {
        **{"clips": len(bench.loader.features), "captions": len(bench.loader.captions), "batch": sizes.batch},
        **{"steps of a round": sizes.bucket, "parameters": parameters, "threads": torch.get_num_threads()},
    }
    plan.tell(f"{plan.rounds} rounds of {sizes.bucket} steps, {len(ways)} ways")
    contenders = {name: Contender(lambda number, way=way: bench.train(way, number)) for name, way in ways.items()}  # type: ignore[misc]
    for way in ways.values():
        bench.train(way, plan.rounds, most=1)  # a whole round to warm up would take minutes
    timings = interleave(contenders, plan.rounds, warm_up=0)
    figure.timings.append(timings)
    target = _LEAST if device.type == "cpu" else None
    figure.rows += [
        Row("step.ours/plain", f"{_OURS}, batches cut by length", PLAIN, timings.ratio(PLAIN, _OURS), at_least=target),
        Row("step.shipped/plain", _SHIPPED, PLAIN, timings.ratio(PLAIN, _SHIPPED)),
    ]
    without = {"bucketing": (_SHIPPED, "batches cut at random")}
    without |= {key: (says.format(words=words), says.format(words=words)) for key, (says, _) in _CHANGES.items()}
    if half:
        without["half"] = (_FLOAT32, _FLOAT32)
    for key, (name, says) in without.items():
        ratio = timings.ratio(name, _OURS)
        figure.rows.append(Row(f"step.{key}", f"one thing changed: {says}", _OURS, ratio, THE_TIME))
    figure.notes += _notes(plan, prepared, bench, timings.median(_OURS), timings.median(PLAIN))
    return figure


def check(bench: Bench, ways: dict[str, Way]) -> None:
    """Without dropout, every way gives one batch the same loss and the same gradient."""
    rows = bench.planned(0, bucketed=False)[0]
    exact = {name: replace(way, half=False) for name, way in ways.items()}
    loss, norm = bench.judge(exact[PLAIN], rows)
    for name, way in exact.items():
        found = bench.judge(way, rows)
        if not (math.isclose(found[0], loss, rel_tol=1e-4) and math.isclose(found[1], norm, rel_tol=1e-3)):
            raise RuntimeError(f"{name}: loss and gradient norm {found}, the straightforward version has {loss, norm}")


def _notes(plan: Plan, prepared: Prepared, bench: Bench, ours: float, plain: float) -> list[str]:
    bucket, words = plan.sizes.bucket, bench.config.data.max_tokens
    lengths = bench.loader.text.lengths
    longest = {way: sum(lengths[rows].max() for rows in bench.planned(0, way)) / bucket for way in (True, False)}
    clips = bench.loader.features.lengths
    return [
        f"a step: {ours / bucket:.3g} s, straightforward {plain / bucket:.3g} s; {prepared.source}, "
        f"{lengths.mean():.1f} tokens on average, the longest of a batch {longest[True]:.1f} by length and "
        f"{longest[False]:.1f} at random; clips have {clips.mean():.1f} steps on average, at most {bench.longest_clip}",
        "the straightforward version: DataLoader with two workers over one .npy a clip, clips padded to the longest of "
        f"the dataset ({bench.longest_clip} steps, not the configured {bench.config.data.max_steps}), captions padded "
        f"to {words} tokens, batches at random, the decoder of transformers on all positions, logits of the whole "
        "vocabulary for each, F.cross_entropy with ignore_index, encoders that compute on padding, PyTorch's dropout "
        "and AdamW, float32; the rest of the model is ours in every row",
        "by length: data.bucket, an option (the paper's configuration cuts at random). Losses and gradients of all "
        "ways were equal without dropout before anything was timed",
    ]


def _place(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else device.type
