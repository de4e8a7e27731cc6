"""One size of library: every index built and asked, each in processes of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import AS_FAST, Figure, Row
from benchmarks.search.library import STEPS, write_library
from benchmarks.search.ways import SAYS, WAYS, write_truth

LEAST_A_SECOND = 10.0  # queries over a million parts, on two cores
MOST_OF_A_GRAPH = 2_000_000  # parts: more takes hours to build
_BYTES = {  # a dimension of a part: in memory while it is asked (of LanceDB: read for each query), and on disk
    "exact": (0.0, 1.05),
    "usearch": (1.3, 1.3),
    "lancedb": (4.0, 4.1),
    "faiss-flat": (8.0, 4.0),
    "faiss-hnsw": (8.6, 4.3),
    "faiss-ivf": (2.2, 1.1),
}


@dataclass(frozen=True)
class Shape:
    """Parts of the library, queries, dimensions."""

    parts: int
    queries: int
    dim: int = 512


@dataclass(frozen=True)
class Plan:
    """A run: work folder, what prints the progress, sizes by letter, whether they are tiny, indexes to leave out."""

    folder: Path
    tell: Callable[[str], None]
    shapes: dict[str, Shape]
    quick: bool
    without: tuple[str, ...] = ()


def library_of(plan: Plan, letter: str) -> Path:
    """The folder of a library; written where it is not there yet."""
    folder, shape = plan.folder / letter, plan.shapes[letter]
    if not (folder / "queries.npy").exists():
        plan.tell(f"writing a library of {shape.parts:,} parts")
        write_library(folder, shape.parts, shape.queries, shape.dim)
    return folder


def measure(plan: Plan, letter: str) -> Figure:
    """Latency, memory, recall and the time to build of each index."""
    shape = plan.shapes[letter]
    figure = Figure(
        f"parts-{letter}",
        f"Search in {shape.parts:,} parts of clips",
        sizes={"parts": shape.parts, "clips": shape.parts // STEPS, "dimensions": shape.dim, "queries": shape.queries},
    )
    left_out = {}
    if (room := shape.parts * shape.dim * 2 * 1.1) > 0.9 * shutil.disk_usage(plan.folder).free:
        figure.notes.append(f"left out: the library alone takes {room / 1e9:.0f} GB of disk")
        return figure
    folder = library_of(plan, letter)
    plan.tell("finding the right answers")
    write_truth(folder)
    told: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        if reason := "as asked for" if way in plan.without else _reason(way, shape, folder):
            left_out[way] = reason
            continue
        plan.tell(f"{SAYS[way]}: building")
        built = _child("build", way, folder)
        plan.tell(f"{SAYS[way]}: asking")
        told[way] = {**_child("ask", way, folder), "build_s": built["seconds"], "build_mb": built["peak_mb"]}
        if way not in ("exact", "usearch"):  # usearch needs the codes of exact
            _forget(folder, way)
    for way, each in told.items():
        _add(figure, way, each, exact=told["exact"], least=LEAST_A_SECOND if shape.parts == 1_000_000 else None)
    figure.notes += [f"{SAYS[way]}: left out, {reason}" for way, reason in left_out.items()]
    figure.notes.append(
        "p50 and p95 of one query after the other, in one process an index; ten clips by their best parts; memory "
        "after the last query beyond that before opening, libraries loaded: own, and mapped pages, which the "
        "system can take back"
    )
    return figure


def _add(figure: Figure, way: str, told: dict[str, Any], exact: dict[str, Any], least: float | None) -> None:
    """The rows of one index."""
    name, says = f"{figure.name}.{way}", SAYS[way]
    rows = [
        Row(f"{name}/p50", f"{says}: p50", "", told["p50_ms"], "ms"),
        Row(f"{name}/p95", f"{says}: p95", "", told["p95_ms"], "ms"),
        Row(f"{name}/own", f"{says}: memory, own", "", told["own_mb"], "MB"),
        Row(f"{name}/mapped", f"{says}: memory, mapped", "", told["mapped_mb"], "MB"),
        Row(f"{name}/recall", f"{says}: recall@10", "", told["recall"], ""),
        Row(f"{name}/build", f"{says}: building", "", told["build_s"], "s"),
        Row(f"{name}/build-memory", f"{says}: building, peak memory", "", told["build_mb"], "MB"),
        Row(f"{name}/open", f"{says}: opening", "", told["open_s"], "s"),
    ]
    if way == "exact":
        rows.insert(2, Row(f"{name}/rate", "exact: queries a second", "", 1e3 / told["p50_ms"], "/s", at_least=least))
    else:
        rows.insert(2, Row(f"{name}/ratio", "exact: p50", says, told["p50_ms"] / exact["p50_ms"], AS_FAST))
    figure.rows += rows


def _reason(way: str, shape: Shape, folder: Path) -> str | None:
    """Why an index is not measured; None: it is."""
    memory, disk = (each * shape.parts * shape.dim for each in _BYTES[way])
    free, room = psutil.virtual_memory().available, shutil.disk_usage(folder).free
    if lacking := [module for module in WAYS[way].modules if find_spec(module.partition(".")[0]) is None]:
        return f"{lacking[0]} is not installed"
    if way in ("usearch", "faiss-hnsw") and shape.parts > MOST_OF_A_GRAPH:
        return "a graph of so many parts takes hours to build on two cores"
    if memory > 0.8 * free:
        does = "reads" if way == "lancedb" else "needs"
        return f"it {does} {memory / 1e9:.0f} GB, {free / 1e9:.0f} GB of memory are free"
    if disk > 0.8 * room:
        return f"it takes {disk / 1e9:.0f} GB of disk, {room / 1e9:.0f} GB are free"
    return None


def _forget(folder: Path, way: str) -> None:
    """Make room for the next index."""
    for path in folder.glob("*.faiss"):
        path.unlink()
    if way == "lancedb":
        shutil.rmtree(folder / "lance", ignore_errors=True)


def _child(verb: str, way: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.search.ways", verb, way, str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"{way}: {answer.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return told
