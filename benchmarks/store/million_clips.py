"""Very many small clips: what opening costs, in a process of its own, and random batches beside a RAM slice copy."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.page_cache import evict, files_below
from benchmarks.report import Figure, Row
from benchmarks.store.corpus import FORMATS, Corpus
from benchmarks.store.plan import Plan
from benchmarks.store.rivals import RamSlices, Reader, check_same
from benchmarks.store.warm_batches import RAM, go_through, reading
from benchmarks.store.ways import MappedIds, MappedRows, ResidentRows
from benchmarks.timing import interleave
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.resident import ResidentFeatures

LEAST = 0.90
MOST_SECONDS = 1.0
ROOT = Path(__file__).resolve().parents[2]
_CACHES = ".*"  # files with a dot in a feature set's folder: caches of ours, which may be deleted


def measure(plan: Plan) -> Figure:
    """Seconds and memory of opening, and the ratio of random batches, in both formats."""
    sizes = plan.sizes
    corpus = Corpus(sizes.many, sizes.many_steps, sizes.many_dim)
    figure = Figure("many", f"{len(corpus):,} small clips", sizes={**corpus.sizes, "shard": sizes.shard})
    readers: dict[str, Reader] = {RAM: RamSlices(corpus)}
    for name in FORMATS:
        plan.tell(f"writing {len(corpus):,} small clips, {corpus.bytes / 1e6:,.0f} MB: {name}")
        path = corpus.write_store(plan.folder / f"many-{name}", name, sizes.shard)
        plan.tell("opening them")
        _add_openings(figure, path, name, min(3, plan.few_rounds))
        features = FeatureSet.open(path)
        readers[f"{name}: read_rows"] = MappedRows(features, corpus.ids)
        readers[f"{name}: read(ids)"] = MappedIds(features, corpus.ids)
        # As `store compact --clips-per-shard` leaves them: a thousand small files cost the processor's caches.
        compacted = FeatureSet.open(corpus.write_store(plan.folder / f"many-{name}-compact", name, 50 * sizes.shard))
        readers[f"{name}: read_rows, {50 * sizes.shard:,} clips a shard"] = MappedRows(compacted, corpus.ids)
    readers["resident"] = ResidentRows(ResidentFeatures(features, corpus.ids))
    check_same(readers, corpus.batches(1, sizes.batch, 10**6)[0], corpus)
    plan.tell("each reader goes once through all clips")
    go_through(readers, corpus)
    plan.tell(f"random batches: {plan.rounds} rounds")
    batches = 8 * sizes.batches  # they are small
    drawn = [corpus.batches(batches, sizes.batch, number) for number in range(plan.rounds + 1)]
    timings = interleave({name: reading(reader, drawn) for name, reader in readers.items()}, plan.rounds)
    figure.timings.append(timings)
    for name in list(readers)[1:]:
        least = None if name.endswith("read(ids)") else LEAST
        short, compact, _ = name.partition(",")
        key = short.replace(": ", ".").replace("(ids)", "_ids") + ("_compact" if compact else "")
        figure.rows.append(Row(f"many.{key}/ram", name, RAM, timings.ratio(RAM, name), at_least=least))
    figure.notes.append("batches: every reader had gone through all clips once before")
    figure.notes.append(f"{RAM}: {1e6 * timings.median(RAM) / batches:.0f} µs a batch of {sizes.batch}")
    return figure


def _add_openings(figure: Figure, path: Path, name: str, rounds: int) -> None:
    """Rows of opening: the first time, which reads every index and makes the cache, and later; cold and warm."""

    def forget() -> None:
        for file in path.glob(_CACHES):
            file.unlink()

    def chill() -> None:
        evict(files_below(path))

    states: dict[str, list[Callable[[], None]]] = {
        "first, cold": [forget, chill],
        "first, warm": [forget],
        "later, cold": [chill],
        "later, warm": [],
    }
    for state, preparations in states.items():
        told = []
        for _ in range(rounds):
            try:
                for prepare in preparations:
                    prepare()
            except OSError as error:
                figure.notes.append(f"{name}: opening {state} not measured, {error}")
                break
            told.append(open_once(path))
        if not told:
            continue
        key = f"many.{name}.open.{state.replace(', ', '_')}"
        most = MOST_SECONDS if state.startswith("later") else None
        median = {field: statistics.median(each[field] for each in told) for field in told[0]}
        figure.rows.append(Row(key, f"{name}: opening, {state}", "", median["open_s"], "s", at_most=most))
        if state.startswith("later"):
            says = f"{name}: first batch by ids, {state}"
            figure.rows.append(Row(f"{key}.first_batch", says, "", median["first_batch_s"], "s"))
        if state.endswith("warm"):
            says = f"{name}: most memory, {state}, mapped pages included"
            figure.rows.append(Row(f"{key}.peak", says, "", median["peak_mb"], "MB"))
            says = f"{name}: memory held, {state}, mapped pages apart"
            figure.rows.append(Row(f"{key}.held", says, "", median["held_mb"], "MB"))


def open_once(path: Path) -> dict[str, float]:
    """Open a feature set in a new process; see :mod:`benchmarks.store.open_once`."""
    command = [sys.executable, "-m", "benchmarks.store.open_once", str(path)]
    told: dict[str, float] = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return told
