"""Random batches from a cold cache: every page of the files evicted before each round, and looked at to be sure."""

from __future__ import annotations

import gc
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.page_cache import evict, files_below, share_in_memory
from benchmarks.report import Figure, Row
from benchmarks.store.corpus import FORMATS, Array, Corpus
from benchmarks.store.plan import Plan
from benchmarks.store.rivals import THREADS, BareMaps, ManyThreads, NpyFiles, Reader
from benchmarks.store.ways import MappedAhead, MappedRows
from benchmarks.timing import Contender, interleave
from supportset.store.read.feature_set import FeatureSet
from supportset.train.data.training_data import AHEAD as BATCHES_AHEAD

AHEAD = "read_rows, two batches asked for ahead"  # as the training loader reads
LEAST_NPY, LEAST_BARE = 5.0, 10.0
_SPARE = 1.3  # times the bytes of one form, for what lies around it
_LOOKED_AT = 300  # files of a folder of many
_STAYED = 0.02  # share of pages that may stay in memory


class StillWarm(Exception):  # noqa: N818 - named for what it tells
    """The kernel keeps files in memory that it was asked to forget."""


def measure(plan: Plan) -> Figure:
    """Ratios of the mapped mode to ``.npy`` files and to bare maps, in both formats."""
    figure = Figure("cold", f"Cold random batches of {plan.sizes.batch} clips")
    corpus = _corpus_that_fits(plan, figure)
    figure.sizes = corpus.sizes
    plan.tell(f"writing {len(corpus):,} clips, {corpus.bytes / 1e6:,.0f} MB, three times: ours and .npy")
    folder = plan.folder / "cold"
    stores = {name: corpus.write_store(folder / name, name, plan.sizes.shard) for name in FORMATS}
    npy = NpyFiles(corpus.write_npy(folder / "npy"), corpus.ids)
    os.sync()  # what is not on disk cannot be forgotten; flushing each file would take minutes
    drawn = [corpus.batches(plan.sizes.cold_batches, plan.sizes.batch, number) for number in range(plan.few_rounds + 1)]
    contenders = {".npy a clip": _cold_npy(npy, drawn, len(corpus))}
    for name, path in stores.items():
        cold = _ColdStore(path, corpus.ids)
        contenders[f"{name}: read_rows"] = cold.contender(_mapped, drawn)
        contenders[f"{name}: {AHEAD}"] = cold.contender(_mapped_ahead, drawn)
        contenders[f"bare mmap ({name})"] = cold.contender(BareMaps, drawn)
        contenders[f"{THREADS} threads ({name})"] = cold.contender(ManyThreads, drawn)
    plan.tell(f"cold batches: {plan.few_rounds} rounds of {plan.sizes.cold_batches} batches, {len(contenders)} readers")
    try:
        timings = interleave(contenders, plan.few_rounds, warm_up=0)
    except (StillWarm, OSError) as error:
        figure.notes.append(f"not measured: {error}")
        return figure
    finally:
        shutil.rmtree(folder)
    figure.timings.append(timings)
    for name in FORMATS:
        rivals = {
            ".npy a clip": ("npy", LEAST_NPY),
            f"bare mmap ({name})": ("bare_mmap", LEAST_BARE),
            f"{THREADS} threads ({name})": ("threads", None),
        }
        for way, key in ((AHEAD, "ahead"), ("read_rows", "read_rows")):
            ours = f"{name}: {way}"
            for rival, (word, least) in rivals.items():
                target = least if way == AHEAD else None
                ratio = timings.ratio(rival, ours)
                figure.rows.append(Row(f"cold.{name}.{key}/{word}", ours, rival, ratio, at_least=target))
    gb = plan.sizes.cold_batches * plan.sizes.batch * corpus.bytes / len(corpus) / 1e9
    told = ", ".join(f"{name} {gb / timings.median(name):.3f}" for name in contenders)
    figure.notes.append(f"GB/s: {told}. Names and sizes of files stay in the kernel's memory, which spares .npy most")
    figure.notes.append(f"{THREADS} threads: each clip by a plain read; more threads bring no more")
    return figure


class _ColdStore:
    """A feature set that is closed, evicted and opened anew before each round: the kernel keeps what is mapped."""

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self._path, self._ids = path, ids
        self._files = files_below(path / "shards")
        self._features = [file for file in self._files if file.suffix != ".parquet"]
        self._open: list[Reader] = []  # the only one, whichever contender opened it

    def contender(self, reader: Callable[[Path, Sequence[str]], Reader], drawn: Sequence[list[Array]]) -> Contender:
        """One that reads with what ``reader`` opens; opening is not timed."""

        def prepare(_: int) -> None:
            self._open.clear()
            gc.collect()
            _evict(self._files, self._features)
            self._open.append(reader(self._path, self._ids))

        def run(number: int) -> None:
            opened, batches = self._open[0], drawn[number]
            for at, rows in enumerate(batches):
                if isinstance(opened, MappedAhead):
                    for coming in batches[at + (BATCHES_AHEAD if at else 0) : at + BATCHES_AHEAD + 1]:
                        opened.ask(coming)
                opened.read(rows)

        return Contender(run, prepare)


def _mapped(path: Path, ids: Sequence[str]) -> Reader:
    return MappedRows(FeatureSet.open(path), ids)


def _mapped_ahead(path: Path, ids: Sequence[str]) -> Reader:
    return MappedAhead(FeatureSet.open(path), ids)


def _cold_npy(npy: NpyFiles, drawn: Sequence[list[Array]], clips: int) -> Contender:
    warm = [npy.path(row) for row in range(clips)]  # just written, so all of them

    def prepare(number: int) -> None:
        _evict(warm, random.Random(number).sample(warm, min(_LOOKED_AT, len(warm))))
        warm[:] = [npy.path(row) for rows in drawn[number] for row in rows.tolist()]

    def run(number: int) -> None:
        for rows in drawn[number]:
            npy.read(rows)

    return Contender(run, prepare)


def _evict(files: Sequence[Path], looked_at: Sequence[Path]) -> None:
    """Evict files and make sure of it, or raise :class:`StillWarm`."""
    evict(files)
    share = share_in_memory(looked_at)
    if share > _STAYED:
        raise StillWarm(f"{share:.0%} of the files stay in memory when evicted (a file system in memory?)")


def _corpus_that_fits(plan: Plan, figure: Figure) -> Corpus:
    """The cold corpus, smaller where the disk has no room for it."""
    clips = plan.sizes.cold
    corpus = Corpus(clips, plan.sizes.steps, plan.sizes.dim)
    room = shutil.disk_usage(plan.folder).free
    if (needed := 3 * _SPARE * corpus.bytes) <= room:
        return corpus
    clips = max(plan.sizes.batch, int(clips * room / needed))
    figure.notes.append(f"{clips:,} clips instead of {len(corpus):,}: the disk has {room / 1e9:.1f} GB to spare")
    return Corpus(clips, plan.sizes.steps, plan.sizes.dim)
