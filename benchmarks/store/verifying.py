"""``store verify`` beside a plain sequential read of the same files, warm and cold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.page_cache import evict, files_below, share_in_memory
from benchmarks.report import Figure, Row
from benchmarks.store.corpus import FORMATS
from benchmarks.store.plan import Plan
from benchmarks.timing import Contender, Timings, interleave
from supportset.store.files.memory import empty_aligned
from supportset.store.maintain.verify import verify

LEAST = 0.60
_PIECE = 1 << 20
_STAYED = 0.02


def measure(plan: Plan) -> Figure:
    """Share of a sequential read's speed at which files are checked, in both formats."""
    figure = Figure("verify", "verify beside a sequential read", sizes={**plan.corpus.sizes, "shard": plan.sizes.shard})
    files = {name: files_below(path) for name, path in plan.stores.items()}
    plan.tell(f"verify: {plan.rounds} warm rounds, {plan.few_rounds} cold ones")
    contenders = {}
    for name, path in plan.stores.items():
        contenders[f"{name}: verify"] = Contender(lambda _, path=path: _verified(path))  # type: ignore[misc]
        contenders[f"{name}: read"] = Contender(lambda _, files=files[name]: read_all(files))  # type: ignore[misc]
    warm = interleave(contenders, plan.rounds)
    _add_rows(figure, warm, "warm")

    def cold(name: str) -> Contender:
        return Contender(contenders[name].run, lambda _: evict(files[name.partition(":")[0]]))

    try:
        evict(files["zarr"])
        if (share := share_in_memory(files["zarr"])) > _STAYED:
            figure.notes.append(f"cold: not measured, {share:.0%} of the files stay in memory when evicted")
            return figure
    except OSError as error:
        figure.notes.append(f"cold: not measured, {error}")
        return figure
    timings = interleave({name: cold(name) for name in contenders}, plan.few_rounds, warm_up=0)
    _add_rows(figure, Timings({f"{name}, cold": seconds for name, seconds in timings.seconds.items()}), "cold")
    return figure


def _add_rows(figure: Figure, timings: Timings, state: str) -> None:
    suffix = "" if state == "warm" else ", cold"
    figure.timings.append(timings)
    for name in FORMATS:
        ratio = timings.ratio(f"{name}: read{suffix}", f"{name}: verify{suffix}")
        least = LEAST if state == "warm" else None
        key = f"verify.{name}.{state}/sequential_read"
        figure.rows.append(Row(key, f"{name}: verify, {state}", "sequential read", ratio, at_least=least))
    gb = figure.sizes["mb"] / 1e3
    told = ", ".join(f"{name} {gb / timings.median(name):.2f}" for name in timings.seconds)
    figure.notes.append(f"GB/s: {told}")


def read_all(files: Sequence[Path]) -> None:
    """Read files from the first byte to the last, through one buffer: the least that any check has to do."""
    buffer = [empty_aligned((_PIECE,), np.uint8).data]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while os.readv(descriptor, buffer):
                pass
        finally:
            os.close(descriptor)


def _verified(path: Path) -> None:
    report = verify(path)
    if report.problems:
        raise AssertionError(f"what was just written is not intact: {report.problems[0]}")
