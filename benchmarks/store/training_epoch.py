"""Loading one training epoch: clips in batches of like length, padded, with masks, as the model takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from benchmarks.batch_list import BatchList
from benchmarks.report import THE_TIME, Figure, Row
from benchmarks.store.corpus import FORMATS, Array, Corpus
from benchmarks.store.plan import Plan
from benchmarks.timing import Contender, interleave
from supportset.store.files.memory import empty_aligned
from supportset.store.format.dataset import Caption
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.feature_set import FeatureSet
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.data.training_data import TokenTable, TrainingData
from supportset.train.model.decoder import IGNORED

MEMCPY = "one memcpy of the clips' bytes"
MOST = 2.0  # memcpys of the same bytes
BATCH = 64  # clips in a batch: what training does unless told otherwise
BUCKET = 16  # batches that are cut together by length
WORDS = (6, 20)


def measure(plan: Plan) -> Figure:
    """Time of an epoch against one memcpy of the clips' bytes, and against what people use."""
    corpus = plan.corpus
    figure = Figure("epoch", f"Loading one training epoch, batches of {BATCH}", sizes=corpus.sizes)
    plan.tell("a training epoch's loading")
    packed, target = corpus.packed(), empty_aligned((int(corpus.offsets[-1]), corpus.dim), np.float16)
    contenders = {MEMCPY: Contender(lambda _: np.copyto(target, packed))}
    drawn = [by_length(corpus, number) for number in range(plan.rounds + 1)]
    for name in FORMATS:
        source = AlignedFeatures([FeatureSet.open(plan.stores[name])])
        features = ClipFeatures(source, corpus.ids, int(corpus.lengths.max()), place="ram", buffers=1)  # as on a CPU
        data = training_data(corpus, features)
        contenders[f"{name}: padded features"] = Contender(
            lambda number, features=features: exhaust(features.gather(rows) for rows in drawn[number])  # type: ignore[misc]
        )
        contenders[f"{name}: whole batches"] = Contender(
            lambda number, data=data: exhaust(data.batches(number))  # type: ignore[misc]
        )
    ours = [name for name in contenders if name != MEMCPY]
    timings = interleave(contenders, plan.rounds)
    figure.timings.append(timings)
    for name in ours:
        ratio = timings.ratio(name, MEMCPY)
        figure.rows.append(Row(_key(name, "memcpy"), name, MEMCPY, ratio, THE_TIME, at_most=MOST))
    padded = sum(corpus.lengths[rows].max() * len(rows) for rows in drawn[0]) / corpus.offsets[-1]
    figure.notes.append(
        f"padded features: clips cut by their own length, {padded:.2f} times the clips' bytes with the padding; whole "
        f"batches: train.data as `train` uses it, captions and their masks included; "
        f"memcpy: {corpus.bytes / 1e9 / timings.median(MEMCPY):.1f} GB/s"
    )
    _beside_data_loaders(plan, figure, contenders, drawn)
    return figure


def _beside_data_loaders(
    plan: Plan, figure: Figure, ours: dict[str, Contender], drawn: Sequence[Sequence[Array]]
) -> None:
    datasets: dict[str, Dataset[Tensor]] = {
        ".npy a clip": NpyClips(plan.npy, plan.corpus.ids),
        "HDF5 dataset a clip": Hdf5Clips(plan.hdf5, plan.corpus.ids),
    }
    name = "zarr: padded features"
    contenders = {name: ours[name]}
    for kind, dataset in datasets.items():
        for workers in (0, 2):
            loader = Loader(dataset, drawn, workers)
            contenders[f"DataLoader over {kind}, {workers} workers"] = Contender(loader.run, loader.prepare)
    plan.tell(f"the same with DataLoader: {plan.few_rounds} rounds of {len(contenders)} loaders")
    timings = interleave(contenders, plan.few_rounds)
    figure.timings.append(timings)
    for rival in list(contenders)[1:]:
        key = _key(name, rival.removeprefix("DataLoader over "))
        figure.rows.append(Row(key, name, rival, timings.ratio(rival, name)))


def by_length(corpus: Corpus, epoch: int) -> list[Array]:
    """Every clip once, in batches of like length: buckets of some batches, sorted, then whole batches at random."""
    rng = np.random.default_rng([2, epoch])
    order = rng.permutation(len(corpus))
    batches = []
    for start in range(0, len(order), BATCH * BUCKET):
        bucket = order[start : start + BATCH * BUCKET]
        bucket = bucket[np.argsort(corpus.lengths[bucket], kind="stable")]
        batches += [bucket[at : at + BATCH] for at in range(0, len(bucket), BATCH)]
    return [batches[at] for at in rng.permutation(len(batches))]


def training_data(corpus: Corpus, features: ClipFeatures) -> TrainingData:
    """What ``train`` makes of the corpus, with a made-up caption for each clip."""
    rng = np.random.default_rng(3)
    captions = [Caption(f"{clip_id}#0", clip_id, "") for clip_id in corpus.ids]
    tokens = [rng.integers(1, 1000, rng.integers(*WORDS)).tolist() for _ in captions]
    text, labels = TokenTable(tokens, 0), TokenTable(tokens, 0, filling=IGNORED)
    return TrainingData(
        captions, features, text, labels, batch_size=BATCH, per_epoch="one", seed=0, bucket=BUCKET, bucket_by="clip"
    )


def exhaust(batches: Iterator[object]) -> None:
    """Go through all batches, each given up before the next is made."""
    for _ in batches:
        pass


class NpyClips(Dataset[Tensor]):
    """One ``.npy`` a clip."""

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self._folder, self._ids = str(folder), ids

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(np.load(f"{self._folder}/{self._ids[row]}.npy"))


class Hdf5Clips(Dataset[Tensor]):
    """One HDF5 dataset a clip; each worker opens the file once."""

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self._path, self._ids = path, ids
        self._file: h5py.File | None = None

    def __getitem__(self, row: int) -> Tensor:
        if self._file is None:
            self._file = h5py.File(self._path, "r")
        return torch.from_numpy(self._file[self._ids[row]][()])


class Loader:
    """A DataLoader whose workers live from epoch to epoch, and that takes the batches of each from a list."""

    def __init__(self, dataset: Dataset[Tensor], drawn: Sequence[Sequence[Array]], workers: int) -> None:
        self._drawn, self._batches = drawn, BatchList()
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._batches,
            num_workers=workers,
            collate_fn=padded,
            persistent_workers=workers > 0,
        )

    def prepare(self, number: int) -> None:
        """Lay out the batches of a round."""
        self._batches.rows = [batch.tolist() for batch in self._drawn[number]]

    def run(self, number: int) -> None:
        """Go through a round's batches."""
        exhaust(iter(self._loader))


def padded(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(C, T, D) with zeros where a clip has no step, and the (C, T) mask."""
    lengths = torch.tensor([len(clip) for clip in clips])
    return pad_sequence(clips, batch_first=True), torch.arange(int(lengths.max()))[None] < lengths[:, None]


def _key(reader: str, rival: str) -> str:
    words = {".npy a clip": "npy", "HDF5 dataset a clip": "hdf5_datasets"}
    for long, short in words.items():
        rival = rival.replace(long, short)
    return f"epoch.{reader.replace(': ', '.').replace(' ', '_')}/{rival.replace(', ', '_').replace(' ', '_')}"
