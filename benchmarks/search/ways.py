"""Ways to find the ten clips whose best step fits a query best: ours, and indexes of faiss.

``python -m benchmarks.search.ways build|ask WAY FOLDER`` makes an index, or asks it, in a process of its own, and
prints what that took. An index of steps is asked for more and more of them until they are of ten clips.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.library import MadeUp

K = 10
WARM_UP = 3  # queries that do not count
_BLOCK = 5_000  # clips read at once


class Way(ABC):
    """One index over the library in a folder.

    Attributes
    ----------
    modules : tuple of str
        Loaded before anything is measured.
    """

    modules: tuple[str, ...]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def build(self) -> None:
        """Make the index, and leave it on disk."""

    @abstractmethod
    def open(self) -> None:
        """Open it as a new process does."""

    @abstractmethod
    def ask(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """The ten best clips."""


class Ours(Way):
    """`supportset.search.index.open_index`."""

    name = "exact"
    modules: tuple[str, ...] = ("numkong", "supportset.search.index.exact")

    def build(self) -> None:
        """Open it: what it lacks is made."""
        self.open()

    def open(self) -> None:
        """Open the index by its name."""
        from supportset.search.index import open_index

        retriever = MadeUp(self.folder)
        self._index = open_index(retriever, retriever.open_clips(), self.name)

    def ask(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """Its answer."""
        return self._index.search(query[None], K)[0][0]


class OursUsearch(Ours):
    """Our graphs of usearch, with exact scores."""

    name = "usearch"
    modules = ("usearch.index", "supportset.search.index.usearch_index")


class OursLance(Ours):
    """Our table of LanceDB, without an index of LanceDB's."""

    modules = ("lancedb", "supportset.search.index.lance_index")

    @property
    def name(self) -> str:  # type: ignore[override]
        """With the table's folder."""
        return f"lancedb:{self.folder / 'lance'}"

    def build(self) -> None:
        """Export."""
        from supportset.search.index.lance_table import LanceTable

        retriever = MadeUp(self.folder)
        LanceTable(retriever, retriever.open_clips(), str(self.folder / "lance")).export()


class Faiss(Way):
    """An index of faiss-cpu over all steps, in memory, as ``write_index`` and ``read_index`` keep it."""

    kind = "Flat"
    modules = ("faiss",)

    def build(self) -> None:
        """Train, add, write."""
        import faiss

        retriever = MadeUp(self.folder)
        features = retriever.open_clips().features
        lengths = features.lengths(features.clip_ids)
        np.save(self.folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
        index = faiss.index_factory(features.dim, self.kind.format(lists=self._lists()), faiss.METRIC_INNER_PRODUCT)
        self.tune(index)
        if not index.is_trained:
            rng = np.random.default_rng(0)
            some = np.sort(rng.permutation(len(features))[: 50 * self._lists() // int(lengths[0]) + 1])
            index.train(_read(retriever, features, some))
        for vectors in blocks(self.folder):
            index.add(vectors)
        faiss.write_index(index, str(self._file))

    def open(self) -> None:
        """Read it into memory."""
        import faiss

        self._index = faiss.read_index(str(self._file))
        self.tune(self._index)
        self._offsets = np.load(self.folder / "offsets.npy")

    def tune(self, index: Any) -> None:
        """Set what is not part of the file."""

    def ask(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """The clips of the best steps, each once."""
        count = 4 * K
        while True:
            found = self._index.search(query[None], count)[1][0]
            clips = np.searchsorted(self._offsets, found[found >= 0], side="right") - 1
            unique, first = np.unique(clips, return_index=True)
            if len(unique) >= K or count >= self._offsets[-1] or (found < 0).any():
                best: NDArray[np.int64] = clips[np.sort(first)][:K]
                return best
            count *= 2

    @property
    def _file(self) -> Path:
        return self.folder / f"{type(self).__name__}.faiss"

    def _lists(self) -> int:
        steps = int(np.load(self.folder / "truth-parts.npy"))
        return min(4096, max(4, int(4 * steps**0.5)))


class FaissGraph(Faiss):
    """HNSW, with the graph's sizes of our usearch index."""

    kind = "HNSW16,Flat"

    def tune(self, index: Any) -> None:
        """The same breadth of search."""
        index.hnsw.efConstruction, index.hnsw.efSearch = 64, 1024


class FaissLists(Faiss):
    """Inverted lists of int8 codes."""

    kind = "IVF{lists},SQ8"

    def tune(self, index: Any) -> None:
        """Look into 32 lists."""
        index.nprobe = 32


WAYS: dict[str, type[Way]] = {
    "exact": Ours,
    "usearch": OursUsearch,
    "lancedb": OursLance,
    "faiss-flat": Faiss,
    "faiss-hnsw": FaissGraph,
    "faiss-ivf": FaissLists,
}
SAYS = {
    "exact": "exact",
    "usearch": "usearch",
    "lancedb": "LanceDB, no index",
    "faiss-flat": "faiss IndexFlatIP",
    "faiss-hnsw": "faiss HNSW16,Flat",
    "faiss-ivf": "faiss IVF,SQ8",
}


def blocks(folder: Path) -> Iterator[NDArray[np.float32]]:
    """All steps of the library in unit length, some clips after others."""
    retriever = MadeUp(folder)
    features = retriever.open_clips().features
    for start in range(0, len(features), _BLOCK):
        yield _read(retriever, features, np.arange(start, min(start + _BLOCK, len(features))))


def _read(retriever: MadeUp, features: Any, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    values, _ = features.read([features.clip_ids[number] for number in numbers])
    return retriever.encode_steps([values])


def write_truth(folder: Path) -> None:
    """Find the best clips by all scores, in float32, and write them: (Q, 10)."""
    queries = np.load(folder / "queries.npy")
    features = MadeUp(folder).open_clips().features
    lengths = features.lengths(features.clip_ids)
    best = np.full((len(queries), len(lengths)), -np.inf, np.float32)
    first, clip = 0, 0
    for vectors in blocks(folder):
        scores = vectors @ queries.T
        count = int(np.searchsorted(np.cumsum(lengths[clip:]), len(vectors))) + 1
        starts = np.cumsum(lengths[clip : clip + count]) - lengths[clip : clip + count]
        best[:, clip : clip + count] = np.maximum.reduceat(scores, starts, axis=0).T
        first, clip = first + len(vectors), clip + count
    np.save(folder / "truth-parts.npy", first)
    np.save(folder / "truth.npy", np.argsort(-best, axis=1, kind="stable")[:, :K])


def build(way: str, folder: Path) -> dict[str, Any]:
    """Make an index; seconds and peak memory."""
    for module in WAYS[way].modules:
        import_module(module)
    started = time.perf_counter()
    WAYS[way](folder).build()
    return {"seconds": time.perf_counter() - started, "peak_mb": _status("VmHWM") / 1e6}


def ask(way: str, folder: Path) -> dict[str, Any]:
    """Ask all queries one by one: milliseconds, memory of the process's own and mapped, recall."""
    queries = np.load(folder / "queries.npy")
    truth = np.load(folder / "truth.npy")
    for module in WAYS[way].modules:
        import_module(module)
    before = _status("RssAnon"), _status("RssFile")
    started = time.perf_counter()
    index = WAYS[way](folder)
    index.open()
    opened = time.perf_counter() - started
    found, times = [], []
    for number in [*range(min(WARM_UP, len(queries))), *range(len(queries))]:
        started = time.perf_counter()
        found.append(index.ask(queries[number]))
        times.append(time.perf_counter() - started)
    found, times = found[-len(queries) :], times[-len(queries) :]
    shares = [len(set(one.tolist()) & set(other.tolist())) / K for one, other in zip(found, truth, strict=True)]
    return {
        "open_s": opened,
        "p50_ms": 1e3 * float(np.percentile(times, 50)),
        "p95_ms": 1e3 * float(np.percentile(times, 95)),
        "own_mb": (_status("RssAnon") - before[0]) / 1e6,
        "mapped_mb": (_status("RssFile") - before[1]) / 1e6,
        "recall": float(np.mean(shares)),
    }


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


if __name__ == "__main__":
    print(json.dumps({"build": build, "ask": ask}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))))
