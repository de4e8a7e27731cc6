"""The figures: a square matrix, and few queries on a large gallery."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.evaluate.ways import BYTES, SAYS, WAYS
from benchmarks.report import Figure, Row
from benchmarks.timing import Timings

MODULES = {
    "ir-measures": "ir_measures",
    "torchmetrics": "torchmetrics",
    "sentence-transformers": "sentence_transformers",
}


@dataclass(frozen=True)
class Shape:
    """Queries, clips and dimensions of a figure."""

    queries: int
    clips: int
    dim: int = 512


FULL = {"a": Shape(10_000, 10_000), "b": Shape(1_000, 1_000_000)}
QUICK = {"a": Shape(200, 200, 16), "b": Shape(50, 2_000, 16)}
TITLES = {"a": "Scoring as many texts as clips", "b": "Scoring on a gallery of very many clips"}


@dataclass(frozen=True)
class Plan:
    """A run: work folder, sizes, rounds, and what prints the progress."""

    folder: Path
    shapes: dict[str, Shape]
    rounds: int
    tell: Callable[[str], None]


def measure(plan: Plan, letter: str) -> Figure:
    """Let each way score the same files, one process a round, by turns."""
    shape = plan.shapes[letter]
    figure = Figure(
        {"a": "square", "b": "wide"}[letter],
        TITLES[letter],
        sizes={"queries": shape.queries, "clips": shape.clips, "dimensions": shape.dim},
    )
    plan.tell(f"{TITLES[letter].lower()}: {shape.queries:,} x {shape.clips:,}")
    folder = plan.folder / letter
    write(folder, shape)
    chosen, figure.notes = _possible(shape)
    timings = Timings({way: [] for way in chosen})
    memory: dict[str, list[float]] = {way: [] for way in chosen}
    recalls: dict[str, dict[str, float]] = {}
    for number in range(plan.rounds):
        for way in chosen[number % len(chosen) :] + chosen[: number % len(chosen)]:
            told = _run(way, folder)
            timings.seconds[way].append(told["seconds"])
            memory[way].append(told["mb"])
            recalls[way] = told["recalls"]
    figure.timings.append(timings)
    peak = {way: statistics.median(each) for way, each in memory.items()}
    figure.rows.append(Row(f"{figure.name}.ours/seconds", "ours", "", timings.median("ours"), "s"))
    figure.rows.append(Row(f"{figure.name}.ours/memory", "ours, peak memory", "", peak["ours"], "MB"))
    for way in chosen[1:]:
        ratio = timings.ratio(way, "ours")
        figure.rows.append(Row(f"{figure.name}.{way}/time", "ours", SAYS[way], ratio, at_least=1.0))
        share = peak["ours"] / max(peak[way], 1e-3)
        figure.rows.append(Row(f"{figure.name}.{way}/memory", "ours", SAYS[way], share, "x the memory", at_most=1.0))
    shown = "; ".join(
        f"{way} {', '.join(f'{name} {value:.2f}' for name, value in each.items())}" for way, each in recalls.items()
    )
    figure.notes.append(f"what each found: {shown}")
    figure.notes.append(
        "each starts from two float16 files; memory is the peak above what was there after the imports; of ours it "
        "includes the mapped file, whose pages the system can take back"
    )
    return figure


def write(folder: Path, shape: Shape) -> None:
    """Texts near their clips, (Q, d) and (G, d) float16, written in parts."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    clips = np.lib.format.open_memmap(folder / "clips.npy", "w+", np.float16, (shape.clips, shape.dim))
    for start in range(0, shape.clips, 50_000):
        stop = min(start + 50_000, shape.clips)
        clips[start:stop] = rng.standard_normal((stop - start, shape.dim), dtype=np.float32)
    noise = (shape.dim / 512) ** 0.5 * rng.standard_normal((shape.queries, shape.dim), dtype=np.float32)
    np.save(folder / "texts.npy", (clips[: shape.queries] + 5.5 * noise).astype(np.float16))
    clips.flush()


def _possible(shape: Shape) -> tuple[list[str], list[str]]:
    """The ways that are installed and fit into memory; notes on the others."""
    free, chosen, notes = psutil.virtual_memory().available, [], []
    for way in WAYS:
        needed = BYTES[way] * shape.queries * shape.clips
        if find_spec(MODULES.get(way, "numpy")) is None:
            notes.append(f"{SAYS[way]}: left out, not installed (pip install 'supportset[bench]')")
        elif needed > 0.8 * free:
            notes.append(f"{SAYS[way]}: left out, needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free")
        else:
            chosen.append(way)
    return chosen, notes


def _run(way: str, folder: Path) -> dict[str, Any]:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.evaluate.ways", way, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise RuntimeError(f"{way}: {answer.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return told
