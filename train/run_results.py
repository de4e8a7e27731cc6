"""What a run folder says of a run: its evaluations, and the curves of its training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.report.content import Chart, Curve
from supportset.train.run_folder import RunFolder

_LOSSES = {"loss": "all", "contrastive": "contrastive", "captioning": "captioning"}


def read_evaluations(folder: RunFolder) -> tuple[dict[str, dict[str, Any]], int]:
    """Evaluations of the run's present model by the stem of their files, and the number of those of an earlier one."""
    model = folder.model_hash()
    current, older = {}, 0
    for path in sorted(folder.eval.glob("*.json")):
        result = folder.read_json(f"eval/{path.name}")
        if "t2v" not in result:  # another analysis of the run
            continue
        if result["model"] == model:
            current[path.stem] = result
        else:
            older += 1
    return current, older


def training_charts(folder: RunFolder) -> dict[str, Chart]:
    """Charts of ``metrics.jsonl``: ``loss``, ``validation`` and ``entropy``, as far as they were measured."""
    records = _records(folder)
    steps = [each for each in records if each.get("kind") == "train"]
    scored = [each for each in records if each.get("kind") == "validation"]
    best = folder.read_best()
    charts = {}
    losses = [curve for key, name in _LOSSES.items() if (curve := _curve(steps, key, name)) and any(curve.values)]
    if losses:
        charts["loss"] = Chart("Loss", "loss, logarithmic", losses, log=True)
    recalls = [
        curve
        for way, name in (("t2v", "text to video"), ("v2t", "video to text"))
        if (curve := _curve(scored, f"{way}/R@1", name))
    ]
    if recalls:
        mark = (best["step"], f"the model, epoch {best['epoch']}")
        charts["validation"] = Chart("R@1 on validation clips", "recall at 1, %", recalls, mark=mark)
    entropy = _curve(steps, "support_entropy", "mean over the captions")
    if entropy is not None and any(entropy.values):
        charts["entropy"] = Chart("Entropy of the support weights in training", "entropy, nats", [entropy])
    return charts


def _records(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        lines = folder.metrics.read_bytes().splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # cut off or damaged: training removes such lines when it resumes
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _curve(records: list[dict[str, Any]], key: str, name: str) -> Curve | None:
    there = [(each["step"], each[key]) for each in records if isinstance(each.get(key), int | float)]
    points: NDArray[np.float64] = np.asarray(there, np.float64)
    return None if len(points) < 2 else Curve(name, points[:, 0].tolist(), points[:, 1].tolist())
