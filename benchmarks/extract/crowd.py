"""Extraction beside other jobs on the same cores: what it loses, with threads that sleep and with threads that spin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from benchmarks.extract.films import write_films
from benchmarks.extract.plan import Plan
from benchmarks.report import Figure, Row
from benchmarks.timing import Contender, interleave
from supportset._process import cores

_JOBS = 8
_BUSY = "while True: pass"
_FPS = 2.0
_ENOUGH = 0.95  # of the spinning threads' rate, where nothing else runs
_WAITS = {"sleeping": {}, "spinning": {"GOMP_SPINCOUNT": "300000"}}  # what GNU's OpenMP does unless told otherwise
_HERE = Path(__file__).resolve().parents[2]


def measure(plan: Plan) -> Figure:
    """The command as a user starts it, alone and beside eight busy processes; one round each way in turn."""
    sizes, others = plan.sizes, 1 if plan.quick else _JOBS
    films = write_films(plan.folder / "crowd", max(2, sizes.films // 15), sizes.seconds, sizes.shape)
    figure = Figure("crowd", f"Extraction beside {others} busy processes on {cores()} cores")
    figure.sizes = {"films": len(films), "fps": _FPS, "backbone": sizes.backbone, "busy processes": others}
    spent: dict[str, list[tuple[int, float, float]]] = {}

    def contender(waits: str, jobs: int) -> Contender:
        name = f"{waits}, {'alone' if not jobs else 'beside others'}"

        def run(number: int) -> None:
            with _busy(jobs):
                store = plan.folder / f"store-{len(spent)}-{number}-{name.replace(' ', '-')}"
                spent.setdefault(name, []).append(_extract(films[0].parent, store, sizes.backbone, _WAITS[waits]))

        return Contender(run)

    names = {f"{waits}, {place}": (waits, jobs) for place, jobs in (("alone", 0), ("beside others", others))
             for waits in _WAITS}  # fmt: skip
    plan.tell(f"{plan.rounds} rounds")
    timings = interleave({name: contender(*how) for name, how in names.items()}, plan.rounds, warm_up=0)
    figure.timings.append(timings)
    rates = {name: sorted(frames / seconds for frames, seconds, _ in runs) for name, runs in spent.items()}
    middle = {name: each[len(each) // 2] for name, each in rates.items()}
    for place, least in (("alone", _ENOUGH), ("beside others", 1.0)):
        figure.rows.append(
            Row(
                f"crowd.{place.replace(' ', '_')}.sleeping/spinning",
                f"{place}: threads that sleep where they wait",
                "threads that spin",
                middle[f"sleeping, {place}"] / middle[f"spinning, {place}"],
                at_least=least,
            )
        )
    for waits in _WAITS:
        fall = middle[f"{waits}, alone"] / middle[f"{waits}, beside others"]
        figure.rows.append(Row(f"crowd.fall.{waits}", f"{waits}: alone", "beside others", fall))
    for name, runs in spent.items():
        used = sorted(1000 * cpu / frames for frames, _, cpu in runs)[len(runs) // 2]
        figure.notes.append(f"{name}: {middle[name]:.2f} frames/s, {used:.0f} ms of CPU a frame")
    figure.notes.append(
        "frames/s from the start of the pipeline to the end of the run; CPU of the command and its workers"
    )
    return figure


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep so many processes busy, as other jobs of the machine would be."""
    jobs = [subprocess.Popen([sys.executable, "-S", "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for job in jobs:
            job.kill()
            job.wait()


def _extract(films: Path, store: Path, backbone: str, waits: dict[str, str]) -> tuple[int, float, float]:
    """Run the command; return its frames, the seconds of its pipeline and the CPU seconds of all its processes."""
    command = [sys.executable, "-P", "-m", "supportset", "extract", "folder", "--data", str(films), "--name", "crowd"]
    command += ["--store", str(store), "--backbone", backbone, "--fps", str(_FPS), "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(_HERE)} | waits
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    (log,) = store.rglob("log/*.jsonl")
    events = {line["event"]: line for line in map(json.loads, log.read_text(encoding="utf-8").splitlines())}
    begin, end = (datetime.fromisoformat(events[name]["time"]) for name in ("pipeline", "end"))
    return events["end"]["frames"], (end - begin).total_seconds(), used.ru_utime + used.ru_stime
