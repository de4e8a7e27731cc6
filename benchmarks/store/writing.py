"""Writing so that it outlasts a power cut: shards, beside one ``.npy`` a clip flushed and renamed each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from benchmarks.report import Figure, Row
from benchmarks.store.corpus import FORMATS, Corpus
from benchmarks.store.plan import Plan
from benchmarks.timing import Contender, interleave

LEAST = 8.0
RIVAL = ".npy a clip, fsync and rename"


def measure(plan: Plan) -> Figure:
    """Ratios of committing shards to committing files, in both formats."""
    sizes = plan.sizes
    corpus = Corpus(sizes.written, sizes.steps, sizes.dim)
    figure = Figure("write", f"Writing with fsync, {sizes.shard:,} clips a shard", sizes=corpus.sizes)
    folder = plan.folder / "written"

    def contender(name: str) -> Contender:
        def prepare(_: int) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            os.sync()  # what others left to be written is not ours to wait for

        def run(_: int) -> None:
            if name in FORMATS:
                corpus.write_store(folder, name, sizes.shard)
            else:
                write_npy_durably(corpus, folder)

        return Contender(run, prepare)

    names = [*FORMATS, RIVAL]
    rounds = plan.rounds // 2 + 1
    plan.tell(f"writing: {rounds} rounds of {len(corpus):,} clips")
    timings = interleave({name: contender(name) for name in names}, rounds)
    shutil.rmtree(folder)
    figure.timings.append(timings)
    for name in FORMATS:
        ratio = timings.ratio(RIVAL, name)
        figure.rows.append(Row(f"write.{name}/npy", f"{name}: committed shards", RIVAL, ratio, at_least=LEAST))
    told = ", ".join(f"{name} {corpus.bytes / 1e6 / timings.median(name):,.0f}" for name in names)
    figure.notes.append(f"MB/s: {told}. Ours hold timestamps, hashes and an index as well")
    return figure


def write_npy_durably(corpus: Corpus, folder: Path) -> None:
    """Each clip under a temporary name, flushed, renamed, and the folder flushed: whole or absent, and it lasts."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for clip_id, values, _ in corpus.clips():
            with open(folder / f".{clip_id}", "wb") as file:
                np.save(file, values)
                file.flush()
                os.fsync(file.fileno())
            os.rename(folder / f".{clip_id}", folder / f"{clip_id}.npy")
            os.fsync(at)
    finally:
        os.close(at)
