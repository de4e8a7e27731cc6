"""An approximate index for more parts than a scan is fast for: graphs of usearch, and exact scores of what they find.

A node of a graph (HNSW) is a run of parts of a clip that hardly differ: their mean, in int8. With a node for each part,
the links of a part would all lead to its neighbours in time, and other clips would not be found. The clips of the nodes
found are compared by the codes of all their parts, and scored exactly.

Graphs are never changed: one of new clips is added, small ones are made anew as one, clips that are gone are passed
over. So a few new clips cost a small graph, and files that are mapped never change.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.index.exact import ExactIndex
from supportset.search.kept.embeddings import key_of
from supportset.search.kept.rows import KeptRows, Layout, Rows, keep_rows, with_repair
from supportset.search.kept.segments import OFFSETS, Segment
from supportset.search.step_index import Codes
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder
from supportset.store.read.padding import packed_rows

if TYPE_CHECKING:
    from usearch.index import Index as Graph

    from supportset.search.index.registry import Found
    from supportset.search.retriever import Clips, Retriever

_FULL_BYTES = 1 << 27  # of codes in a graph: 262,144 nodes of 512 numbers; that much is in memory while it is made
_ALIKE = 0.9  # cosine of a run's first part and the others
_LONGEST = 64  # parts of a run
_CONNECTIVITY = 16
_EXPANSION_ADD = 64
_EXPANSION_SEARCH = 1024
_FEW = 4096  # nodes that are all compared: a small graph may have some that no link leads to
_CANDIDATES = 8  # clips compared by all their parts, for each that is wanted
_LARGEST_SHARE = 1 / 4  # of all nodes that graphs are asked for; more is a scan's work
_SAMPLE = 64  # queries that the recall is measured with
_RECALL_AT = 10
_CHANGED = 0.1  # share of parts since the recall was measured


def _seal(rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    graph = _new_graph(rows["values"].shape[1])
    graph.add(np.arange(len(rows["values"]), dtype=np.uint64), rows["values"])
    return {"graph": np.frombuffer(graph.save(), np.uint8)}


def _unseal(segment: Segment) -> dict[str, NDArray[Any]]:
    graph = _view(segment)
    return {"values": np.stack(graph.get(np.arange(len(graph), dtype=np.uint64)))}


def _new_graph(dim: int) -> Graph:
    try:
        from usearch.index import Index as Graph
    except ImportError:
        raise UsageError("--index usearch needs usearch: pip install 'supportset[usearch]'") from None
    return Graph(ndim=dim, metric="cos", dtype="i8", connectivity=_CONNECTIVITY, expansion_add=_EXPANSION_ADD)


def _view(segment: Segment) -> Graph:
    """The graph of a segment, mapped."""
    from usearch.index import Index as Graph

    graph = Graph.restore(segment["graph"].data, view=True)
    assert graph is not None
    graph.expansion_search = _EXPANSION_SEARCH  # it is not part of the file
    return graph


class UsearchIndex:
    """Graphs over the parts of all clips. What they find is scored exactly; what they miss is stated as recall.

    Where few clips are allowed, or k is large, the exact scan answers.
    """

    def __init__(self, retriever: Retriever, clips: Clips) -> None:
        _new_graph(1)  # refuses where usearch is not installed
        self._retriever, self._clips = retriever, clips
        self.exact: ExactIndex
        self._lock = threading.Lock()  # usearch refuses more concurrent searches than there are cores
        self._graphs = with_repair(self._open)
        self.recall = self._read_recall() or self._measure_recall()

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.exact)

    @property
    def notes(self) -> tuple[str, ...]:
        """The recall, and what the exact index tells."""
        about = self.recall
        told = (
            f"recall@{about['k']} of the usearch index is {about['recall']:.3f}, measured with {about['queries']} "
            f"{about['of']} against the exact scan"
        )
        return (*self.exact.notes, told)

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON: with the ``recall`` at ``k``, of how many ``queries`` of what kind (``of``)."""
        return {"index": "usearch", **{name: self.recall[name] for name in ("recall", "k", "queries", "of")}}

    def search(self, queries: ArrayLike, k: int, allowed: NDArray[np.bool_] | None = None) -> Found:
        """Find the k clips with the best parts: see `Index`."""
        unit = self.exact.steps.check_queries(queries)
        count = len(self) if allowed is None else int(allowed.sum())
        if not len(unit) or count < len(self) / 16:
            return self.exact.search(queries, k, allowed)
        found = [self._search_one(query, min(k, count), allowed) for query in unit]
        if any(each is None for each in found):
            return self.exact.search(queries, k, allowed)
        return tuple(np.stack(each) for each in zip(*found, strict=True))  # type: ignore[return-value]

    def _search_one(
        self, query: NDArray[np.float64], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """The best k clips; None where the graphs do not give as many."""
        graphs = self._graphs
        code = Codes.of(query[None]).values[0]
        wanted = min(_CANDIDATES * k, len(self) if allowed is None else int(allowed.sum()))
        count = 2 * wanted
        while True:
            with self._lock:
                clips, scores = graphs.find(code, min(count, graphs.nodes))
            if allowed is not None:
                clips, scores = clips[allowed[clips]], scores[allowed[clips]]
            if len(clips) >= wanted or count >= graphs.nodes:
                break
            count *= 2
            if count > graphs.nodes * _LARGEST_SHARE:
                return None
        near = np.sort(clips[np.argsort(-scores, kind="stable")[:wanted]])
        found = self.exact.best_of(query, near, k)
        return found if len(found[0]) == k else None

    def _open(self, in_memory: bool) -> _Graphs:
        self.exact = ExactIndex(self._retriever, self._clips)
        codes = self.exact.kept

        def compute(numbers: NDArray[np.int64]) -> Iterable[Rows]:
            for counts, arrays in codes.blocks(numbers, ("values", "scale", "error")):
                vectors = arrays["values"] * arrays["scale"][:, None]
                vectors[np.isinf(arrays["error"])] = 0.0
                runs, nodes = _runs(vectors, counts)
                yield runs, {"values": Codes.of(nodes).values}

        features = self._clips.features
        layout = Layout(_FULL_BYTES, _seal, _unseal)
        key = f"{key_of(self._retriever, features)}, runs {_ALIKE} {_LONGEST}"
        kept = keep_rows(self._clips.kept / "usearch", key, self._clips.content, compute, in_memory, layout)
        return _Graphs(kept)

    def _read_recall(self) -> dict[str, Any] | None:
        """What was measured before, while the library is about the same."""
        about = self._about()
        with suppress(OSError, ValueError, KeyError, TypeError):
            known: dict[str, Any] = json.loads((self._clips.kept / "usearch.json").read_bytes())
            same = all(known[name] == about[name] for name in ("key", "k"))
            if same and abs(about["parts"] / known["parts"] - 1) <= _CHANGED and 0 <= known["recall"] <= 1:
                return known
        return None

    def _measure_recall(self) -> dict[str, Any]:
        """Compare with the exact scan, and keep what comes out."""
        queries, of = self._sample()
        k = min(_RECALL_AT, len(self))
        expected, _ = self.exact.search(queries, k)
        found, _ = self.search(queries, k)
        shares = [np.isin(one, other).mean() for one, other in zip(expected, found, strict=True)]
        about = {**self._about(), "queries": len(queries), "of": of, "recall": float(np.mean(shares))}
        with suppress(SupportsetError):  # a folder that cannot be written: it is measured again next time
            LocalFolder(self._clips.kept).put({"usearch.json": [json.dumps(about).encode()]})
        return about

    def _about(self) -> dict[str, Any]:
        key = f"{key_of(self._retriever, self._clips.features)}, {_ALIKE} {_EXPANSION_SEARCH} {_CANDIDATES}"
        return {"key": key, "k": min(_RECALL_AT, len(self)), "parts": int(self.exact.steps.lengths.sum())}

    def _sample(self) -> tuple[NDArray[np.float64], str]:
        """Queries to measure with: captions of the dataset; parts of the library where it has none."""
        rng = np.random.default_rng(0)
        texts = self._clips.dataset.captions["text"].to_pylist()
        if texts:
            chosen = rng.permutation(len(texts))[:_SAMPLE]
            return unit_rows(self._retriever.encode_text([texts[number] for number in chosen])), "captions"
        numbers = np.sort(rng.permutation(len(self))[:_SAMPLE])
        vectors = unit_rows(self.exact.read(numbers))
        lengths = self.exact.steps.lengths[numbers]
        chosen = np.cumsum(lengths) - 1 - rng.integers(0, lengths)
        return np.nan_to_num(vectors[chosen]), "parts of clips"


def _runs(vectors: NDArray[np.floating], counts: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Join parts of a clip that hardly differ from the first of them.

    Parameters
    ----------
    vectors : (P, d) float
        Of parts, clip after clip, of about unit length.
    counts : (N,) int
        Parts of each clip.

    Returns
    -------
    runs : (N,) int64
        Runs of each clip.
    means : (R, d) float64
        Of each run.
    """
    runs: list[int] = []
    starts: list[int] = []
    ends = np.cumsum(counts)
    for first, end in zip((ends - counts).tolist(), ends.tolist(), strict=True):
        before = len(starts)
        while first < end:
            starts.append(first)
            differs = vectors[first + 1 : min(end, first + _LONGEST)] @ vectors[first] < _ALIKE
            first += 1 + (int(differs.argmax()) if differs.any() else len(differs))
        runs.append(len(starts) - before)
    lengths = np.diff([*starts, len(vectors)])
    means = np.add.reduceat(vectors.astype(np.float64), starts, axis=0) / lengths[:, None]
    return np.asarray(runs, np.int64), means


class _Graphs:
    """The graphs of all segments, as one."""

    def __init__(self, kept: KeptRows) -> None:
        self.kept = kept
        self.graphs = [_view(segment) for segment in kept.segments]
        self.offsets = [np.asarray(segment[OFFSETS]) for segment in kept.segments]
        self.nodes = sum(int(offsets[-1]) for offsets in self.offsets)
        # A segment's clip may be several clips of the library, or none
        self._order = np.argsort(kept.clips, kind="stable")
        self._sorted = kept.clips[self._order]

    def find(self, code: NDArray[np.int8], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Clips of the library with one of the ``count`` nodes of each graph nearest to a code, and their scores."""
        places, scores = [], []
        for first, graph, offsets in zip(self.kept.first, self.graphs, self.offsets, strict=False):
            found = graph.search(code, min(count, len(graph)), exact=len(graph) <= _FEW)
            places.append(first + np.searchsorted(offsets, found.keys.astype(np.int64), side="right") - 1)
            scores.append(1.0 - found.distances.astype(np.float64))
        place, score = np.concatenate(places), np.concatenate(scores)
        order = np.argsort(-score, kind="stable")
        unique, first_of = np.unique(place[order], return_index=True)  # each clip with its best node
        score = score[order][first_of]
        start, stop = (np.searchsorted(self._sorted, unique, side=side) for side in ("left", "right"))
        counts = stop - start
        rows = packed_rows(start, counts, np.concatenate([[0], np.cumsum(counts)]))
        return self._order[rows], np.repeat(score, counts)
