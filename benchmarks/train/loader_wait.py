"""How long the training loop waits for its loader: runs of the loop itself, and what it writes of them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, Row
from benchmarks.train.configurations import paper, study
from benchmarks.train.data import Prepared
from benchmarks.train.plan import Plan
from supportset.train.config import Config
from supportset.train.device import choose_device
from supportset.train.loop.training import train

SHARE = "% of the step"
MOST = 3.0

_RECORDS = 4  # that count; the first one before them does not
_PLACES = {"ram": "features in memory", "disk": "features from disk"}


@dataclass(frozen=True)
class Waited:
    """What the loop wrote down of a run.

    Attributes
    ----------
    share : float
        Of the time that it waited for its loader.
    steps : int
        That this is of.
    step_s : float
        Seconds a step, the median over the loop's records.
    """

    share: float
    steps: int
    step_s: float


def measure(plan: Plan, prepared: Prepared) -> Figure:
    """Both sizes, features in memory and on disk."""
    sizes = plan.sizes
    figure = Figure("loader", "How long the training loop waits for its loader", sizes={"batch": sizes.batch})
    t5, notes = prepared.small_t5, []
    precision = {} if choose_device(plan.device).type == "cuda" else {"precision": "fp32"}
    for place, says in _PLACES.items():
        data = {"place": place}
        runs: dict[str, tuple[Config, Path, int]] = {
            "paper": (paper(t5, sizes, data=data, optim=precision), prepared.videos, sizes.wait_steps),
            "study": (study(sizes, data=data), prepared.images, sizes.study_steps),
        }
        for key, (config, store, steps) in runs.items():
            name = "the paper's sizes, T5-small" if key == "paper" else "sizes of the Flickr8k studies"
            plan.tell(f"{name}, {says}: {steps} steps")
            waited = run(config, store, plan.folder / "run", steps, plan.device)
            figure.rows.append(Row(f"loader.{key}.{place}", name, says, 100 * waited.share, SHARE, at_most=MOST))
            notes.append(
                f"{name}, {says}: {waited.step_s:.3g} s a step of {config.optim.batch_size}, {waited.steps} steps"
            )
    figure.notes += [
        "these are runs of `train` as a user starts it; the share is `data_wait` of its metrics.jsonl without its "
        "first record; files were in the page cache",
        *notes,
    ]
    return figure


def run(config: Config, store: Path, out: Path, steps: int, device: str) -> Waited:
    """Train for so many steps and some before them, and read what the loop says of itself."""
    every = max(1, steps // _RECORDS)
    optim = {"max_steps": every * (_RECORDS + 1), "log_every": every, "epochs": 1000}
    shutil.rmtree(out, ignore_errors=True)
    with contextlib.redirect_stderr(io.StringIO()):
        train(config.model_copy(update={"optim": config.optim.model_copy(update=optim)}), store, out, device=device)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    shutil.rmtree(out)
    return sum_up([json.loads(line) for line in lines], config.optim.batch_size)


def sum_up(records: Sequence[dict[str, Any]], batch: int) -> Waited:
    """Sum up the loop's records but the first; each speaks of the steps since the one before."""
    trained = [record for record in records if record["kind"] == "train"]
    steps = [after["step"] - before["step"] for before, after in pairwise(trained)]
    seconds = [batch / record["captions_per_s"] for record in trained[1:]]
    took = [number * each for number, each in zip(steps, seconds, strict=True)]
    waited = sum(each * record["data_wait"] for each, record in zip(took, trained[1:], strict=True))
    return Waited(waited / sum(took), sum(steps), statistics.median(seconds))
