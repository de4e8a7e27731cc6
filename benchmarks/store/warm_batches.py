"""Random batches from a warm page cache: ours beside a slice copy from RAM, and beside what people use."""

from __future__ import annotations

import mmap
from collections.abc import Mapping

import numpy as np

from benchmarks.report import Figure, Row
from benchmarks.store.corpus import FORMATS, Array, Corpus
from benchmarks.store.plan import Plan
from benchmarks.store.rivals import Hdf5Datasets, LibrarySlices, NpyFiles, RamSlices, Reader, check_same
from benchmarks.store.ways import MappedIds, MappedRows, resident_rows
from benchmarks.timing import Contender, Timings, interleave
from supportset.store.read.feature_set import FeatureSet

RAM = "RAM slice copy"
SMALL_PAGES = "the same from pages of 4 KB"
LEAST_MAPPED, LEAST_RESIDENT = 0.90, 0.95
_MANY = 1_000  # clips read at a time on the way through all of them
_TURNS = 20  # rounds of one batch, for each round of the others
LEAST = {".npy a clip": 12, "HDF5 dataset a clip": 12, "zarr-python on our shards": 35}


def measure(plan: Plan) -> Figure:
    """Ratios of the mapped and of the resident mode, in both formats."""
    corpus, sizes = plan.corpus, plan.sizes
    figure = Figure("warm", f"Warm random batches of {sizes.batch} clips", sizes=corpus.sizes)
    readers: dict[str, Reader] = {RAM: RamSlices(corpus)}
    ours: dict[str, float | None] = {}  # by name of the reader: its target
    for name in FORMATS:
        features = FeatureSet.open(plan.stores[name])
        readers[f"{name}: read_rows"] = MappedRows(features, corpus.ids)
        readers[f"{name}: read(ids)"] = MappedIds(features, corpus.ids)
        ours |= {f"{name}: read_rows": LEAST_MAPPED, f"{name}: read(ids)": None}
        if resident := resident_rows(features, corpus.ids):
            readers[f"{name}: resident"] = resident
            ours[f"{name}: resident"] = LEAST_RESIDENT
        else:
            figure.notes.append(f"{name}: the resident mode is not in this checkout, so not measured")
    rivals: dict[str, Reader] = {
        ".npy a clip": NpyFiles(plan.npy, corpus.ids),
        "HDF5 dataset a clip": Hdf5Datasets(plan.hdf5, corpus.ids),
        "zarr-python on our shards": LibrarySlices(plan.stores["zarr"], "zarr", corpus.ids),
        "h5py on our shards": LibrarySlices(plan.stores["hdf5"], "hdf5", corpus.ids),
    }
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        rivals[SMALL_PAGES] = RamSlices(corpus, small_pages=True)
        figure.notes.append(f"{SMALL_PAGES}: as the kernel holds files, while a large array may use pages of 2 MB")
    readers |= rivals
    check_same(readers, corpus.batches(1, sizes.batch, 10**6)[0], corpus)
    plan.tell(f"warm batches: {plan.rounds} rounds of {sizes.batches} batches, {len(readers)} readers")

    go_through({name: readers[name] for name in [RAM, *ours]}, corpus)
    # A batch takes a millisecond, and machines pause for longer than that: the fast ones take turns batch by batch.
    fast, rounds = [RAM, *([SMALL_PAGES] if SMALL_PAGES in readers else []), *ours], plan.rounds * _TURNS
    drawn = [corpus.batches(1, sizes.batch, number) for number in range(rounds + 1)]
    timings = interleave({name: reading(readers[name], drawn) for name in fast}, rounds)
    mapped = [f"{name}: read_rows" for name in FORMATS]
    drawn = [corpus.batches(sizes.batches, sizes.batch, number) for number in range(plan.rounds + 1)]
    slow = {name: reading(readers[name], drawn) for name in [*mapped, *rivals] if name != SMALL_PAGES}
    slower = interleave(slow, plan.rounds)
    figure.timings += [
        timings,
        Timings({f"{name}, {sizes.batches} batches": each for name, each in slower.seconds.items()}),
    ]
    for name, least in ours.items():
        figure.rows.append(Row(_key(name, "ram"), name, RAM, timings.ratio(RAM, name), at_least=least))
    for reader in mapped:
        for rival in rivals:
            ratio = (timings if rival == SMALL_PAGES else slower).ratio(rival, reader)
            figure.rows.append(Row(_key(reader, rival), reader, rival, ratio, at_least=LEAST.get(rival)))
    figure.notes.append(
        f"{RAM}, {SMALL_PAGES} and ours: {rounds} rounds of one batch; the others {plan.rounds} of more"
    )
    gb = sizes.batch * corpus.bytes / len(corpus) / 1e9
    figure.notes.append("ours had gone through all clips once before, so that no page is touched for the first time")
    figure.notes.append(f"{RAM}: {gb / timings.median(RAM):.1f} GB/s")
    return figure


def go_through(readers: Mapping[str, Reader], corpus: Corpus) -> None:
    """Have each reader read all clips once: else rounds would be about the disk, and about pages first touched."""
    for reader in readers.values():
        for start in range(0, len(corpus), _MANY):
            reader.read(np.arange(start, min(start + _MANY, len(corpus))))


def reading(reader: Reader, drawn: list[list[Array]]) -> Contender:
    """Read the batches of a round, each given up before the next is read, as a training loop does."""

    def run(number: int) -> None:
        for rows in drawn[number]:
            reader.read(rows)

    return Contender(run)


def _key(reader: str, rival: str) -> str:
    words = {
        SMALL_PAGES: "ram_small_pages",
        ".npy a clip": "npy",
        "HDF5 dataset a clip": "hdf5_datasets",
        "zarr-python on our shards": "zarr_python",
    }
    return f"warm.{reader.replace(': ', '.').replace('(ids)', '_ids')}/{words.get(rival, rival.split()[0])}"
