"""Exact search over the step vectors of a library: a scan of int8 codes, then the exact scores of what may be best.

A vector v of unit length is stored as ``scale * code``, with the length of the error, ``|v - scale * code|``. By the
inequality of Cauchy and Schwarz the exact score of a unit query differs from the coarse one by no more than that length
(and what the query's own rounding adds). Clips are scored exactly, the highest upper bound first, until the k-th best
exact score is above all other upper bounds: then no other clip can be among the best k. The result is that of a scan in
full precision, at a quarter of float32's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numkong
import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset._process import cores
from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.store.errors import UsageError
from supportset.store.read.padding import packed_rows

_LEVELS = 127
_BLOCK_BYTES = 1 << 25  # of codes scanned at once by one thread
_BOUNDS_BYTES = 1 << 28  # of bounds in memory at once
_AT_ONCE = 32  # clips scored exactly at first
_ROUNDING = 1e-5  # of float32 sums, in cosine


@dataclass(frozen=True)
class Codes:
    """Unit vectors in int8.

    Attributes
    ----------
    values : (N, d) int8
        May be mapped from a file.
    scale : (N,) float32
        ``scale * values`` is near the vector.
    error : (N,) float32
        Length of the difference; infinite for a vector that is not finite, which no search returns.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    error: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self.values)

    @classmethod
    def of(cls, vectors: ArrayLike) -> Codes:
        """Encode (N, d) vectors; they are scaled to unit length first. A vector of zeros keeps the score 0."""
        unit = unit_rows(vectors)
        finite = np.isfinite(unit).all(axis=1)
        unit[~finite] = 0.0
        scale = np.abs(unit).max(axis=1, initial=0.0) / _LEVELS
        values = np.rint(unit / np.where(scale > 0, scale, 1.0)[:, None]).astype(np.int8)
        error = np.linalg.norm(unit - scale[:, None] * values, axis=1)
        error = np.where(finite, error + 1e-7, np.inf)  # the sum is float32 below
        return cls(values, scale.astype(np.float32), error.astype(np.float32))


def unit_queries(queries: ArrayLike, dim: int | None) -> NDArray[np.float64]:
    """Scale queries, (Q, dim), to unit length; None: of any dimension.

    Raises
    ------
    UsageError
        Queries of another shape, or one that is not finite.
    """
    unit = unit_rows(queries)
    if unit.ndim != 2 or (dim is not None and unit.shape[1] != dim):
        raise UsageError(f"queries of shape {unit.shape}, not (Q, {'d' if dim is None else dim})")
    if not np.isfinite(unit).all():
        raise UsageError("a query's embedding is not finite: the encoder is broken, or the query is")
    return unit


class CodedClips(Protocol):
    """Codes of the steps of some clips: arrays by name, as `Codes` has them, and ``offsets``.

    Steps ``offsets[i]:offsets[i + 1]`` are those of clip i: at least one.
    """

    def __getitem__(self, name: str, /) -> NDArray[Any]:
        """One of the arrays: values, scale, error or offsets."""


class StepIndex:
    """The step vectors of N clips, searched for the clips whose best step fits a query best.

    Parameters
    ----------
    segments : sequence of CodedClips
        Codes of clips, M in all, those of the second segment after those of the first.
    clips : (N,) int
        Which of the M clips are searched, in the order of their numbers in results. A clip may be named twice.
    read : function
        From clip numbers below N, (K,), ascending, to their exact step vectors, (ΣT, d) floats of any length.
    threads : int, optional
        Default: one for each core that the process may use.

    Raises
    ------
    UsageError
        Offsets that do not divide the codes into clips.
    """

    def __init__(
        self,
        segments: Sequence[CodedClips],
        clips: ArrayLike,
        read: Callable[[NDArray[np.int64]], NDArray[np.floating]],
        threads: int | None = None,
    ) -> None:
        self.segments, self._read = list(segments), read
        self.clips = np.asarray(clips, np.int64)
        lengths = [np.diff(segment["offsets"]) for segment in self.segments]
        for segment, each in zip(self.segments, lengths, strict=True):
            if (each < 1).any() or segment["offsets"][-1] != len(segment["error"]):
                raise UsageError(
                    f"step index: offsets do not divide {len(segment['error'])} steps into clips of at least one step"
                )
        self._first = np.cumsum([0, *map(len, lengths)], dtype=np.int64)
        self.lengths = np.concatenate([np.zeros(0, np.int64), *lengths])[self.clips]
        self._threads = threads or cores()

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    def search(
        self, queries: ArrayLike, k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the k clips with the best steps.

        Parameters
        ----------
        queries : (Q, d) float
            Of any length.
        k : int
            At least 1; fewer clips are returned where fewer can be.
        allowed : (N,) bool, optional
            Clips to choose from.

        Returns
        -------
        clips : (Q, K) int64
            The best first; of equal scores the lower number. K is k, or the number of clips that can be returned.
        scores : (Q, K) float32
            Cosine of the query and the clip's best step.

        Raises
        ------
        UsageError
            A query that is not finite, or of another length d than the index.
        """
        unit = self.check_queries(queries)
        k = min(k, len(self) if allowed is None else int(allowed.sum()))
        if not len(unit) or not k:
            return np.zeros((len(unit), 0), np.int64), np.zeros((len(unit), 0), np.float32)
        clips, scores = np.empty((len(unit), k), np.int64), np.empty((len(unit), k), np.float32)
        block, every = max(1, _BOUNDS_BYTES // (8 * len(self))), np.arange(len(self))
        for start in range(0, len(unit), block):
            lower, upper = self._bounds(unit[start : start + block], allowed)
            if start == 0:  # clips of which no step is finite are never returned
                k = min(k, int(np.isfinite(upper[:, 0]).sum()))
                clips, scores = clips[:, :k], scores[:, :k]
            if not k:
                break
            for number, query in enumerate(unit[start : start + block]):
                best = self._best(query, k, every, lower[:, number], upper[:, number])
                clips[start + number], scores[start + number] = best
        return clips, scores

    def exact(self, query: NDArray[np.float64], clips: NDArray[np.int64]) -> NDArray[np.float32]:
        """Exact score of the best step of clips, (M,); their numbers ascend. -inf where no step is finite."""
        best = np.empty(len(clips), np.float32)
        lengths = self.lengths[clips]
        block = np.cumsum(lengths) * len(query) * 8 // _BLOCK_BYTES
        for part in np.split(np.arange(len(clips)), np.flatnonzero(np.diff(block)) + 1):
            scores = cosine_scores(query[None], unit_rows(self._read(clips[part])))[0]
            scores = np.where(np.isfinite(scores), scores, -np.inf)
            best[part] = np.maximum.reduceat(scores, np.cumsum(lengths[part]) - lengths[part])
        return best

    def check_queries(self, queries: ArrayLike) -> NDArray[np.float64]:
        """Scale queries to unit length; UsageError for those that `search` refuses."""
        return unit_queries(queries, self.segments[0]["values"].shape[1] if self.segments else None)

    def best_of(
        self, query: NDArray[np.float64], clips: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the k best among some clips, (M,), whose numbers ascend, for a query of unit length: as `search`."""
        coarse = _QueryCodes.of(query[None])
        lower, upper = np.empty((2, len(clips)), np.float32)
        places = self.clips[clips]
        segments = np.searchsorted(self._first, places, side="right") - 1
        for number in np.unique(segments).tolist():
            segment, chosen = self.segments[number], segments == number
            local = places[chosen] - self._first[number]
            starts = segment["offsets"][local]
            counts = segment["offsets"][local + 1] - starts
            begins = np.concatenate([[0], np.cumsum(counts)])
            steps = packed_rows(starts, counts, begins)
            bounds = _clip_bounds(coarse, segment, steps, begins[:-1])
            lower[chosen], upper[chosen] = (bound[:, 0] for bound in bounds)
        return self._best(query, min(k, int(np.isfinite(upper).sum())), clips, lower, upper)

    def _best(
        self,
        query: NDArray[np.float64],
        k: int,
        clips: NDArray[np.int64],
        lower: NDArray[np.float32],
        upper: NDArray[np.float32],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Score clips exactly, the highest upper bound first, until no other can be among the best k."""
        if not k:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        reach = np.partition(lower, len(lower) - k)[len(lower) - k]
        near = np.flatnonzero(upper >= reach)
        near = near[np.argsort(-upper[near], kind="stable")]
        exact = np.empty(len(near), np.float32)
        done, step = 0, max(k, _AT_ONCE)
        while done < len(near):
            if done >= k and upper[near[done]] < np.partition(exact[:done], done - k)[done - k]:
                break
            stop = min(len(near), done + step)
            order = done + np.argsort(near[done:stop])
            exact[order] = self.exact(query, clips[near[order]])
            done, step = stop, 2 * step
        best = np.lexsort((near[:done], -exact[:done]))[:k]
        return clips[near[best]], exact[best]

    def _bounds(
        self, queries: NDArray[np.float64], allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Bounds on the score of each clip's best step, two arrays (N, Q); -inf where it is not allowed."""
        coarse = _QueryCodes.of(queries)
        lower = np.full((int(self._first[-1]), len(queries)), -np.inf, np.float32)
        upper = lower.copy()
        wanted = np.zeros(len(lower), bool)
        wanted[self.clips if allowed is None else self.clips[allowed]] = True
        blocks = self._blocks(wanted, queries.shape[1])
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(lambda block: self._bound_block(coarse, lower, upper, *block), blocks))
        lower, upper = lower[self.clips], upper[self.clips]
        if allowed is not None:
            lower[~allowed] = upper[~allowed] = -np.inf
        return lower, upper

    def _blocks(self, wanted: NDArray[np.bool_], dim: int) -> Iterator[tuple[int, int, int]]:
        """Segment, first clip and the one after the last, of blocks of whole clips with one that is wanted."""
        for number, segment in enumerate(self.segments):
            offsets = segment["offsets"]
            rows, start = max(1, _BLOCK_BYTES // max(1, dim)), 0
            while start < len(offsets) - 1:
                stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + rows, side="right")) - 1)
                if wanted[self._first[number] + start : self._first[number] + stop].any():
                    yield number, start, stop
                start = stop

    def _bound_block(
        self, coarse: _QueryCodes, lower: NDArray[np.float32], upper: NDArray[np.float32], number: int, *clips: int
    ) -> None:
        segment, (first, last) = self.segments[number], clips
        offsets = segment["offsets"][first : last + 1]
        place = slice(int(self._first[number]) + first, int(self._first[number]) + last)
        steps = slice(int(offsets[0]), int(offsets[-1]))
        lower[place], upper[place] = _clip_bounds(coarse, segment, steps, offsets[:-1] - offsets[0])


def _clip_bounds(
    coarse: _QueryCodes, segment: CodedClips, steps: slice | NDArray[np.int64], begins: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bounds on the scores of the best of some steps, those of a clip from each of ``begins`` on: two arrays (M, Q)."""
    error = segment["error"][steps, None]
    broken = np.isinf(error)
    scores = coarse.scores(segment["values"][steps], segment["scale"][steps])
    margin = np.where(broken, 0.0, error * coarse.length + coarse.error + _ROUNDING).astype(np.float32)
    lower, upper = scores - margin, scores + margin
    for bound in (lower, upper):
        bound[broken[:, 0]] = -np.inf
    return np.maximum.reduceat(lower, begins, axis=0), np.maximum.reduceat(upper, begins, axis=0)


@dataclass(frozen=True)
class _QueryCodes:
    """Queries in two int8 codes each, the second of what the first leaves over: together about 15 bits."""

    packed: numkong.PackedMatrix
    scale: NDArray[np.float32]  # (2, Q)
    error: NDArray[np.float32]  # (Q,): what both leave over, times the longest code of a step
    length: NDArray[np.float32]  # (Q,): of the query, 1, or 0 for zeros

    @classmethod
    def of(cls, queries: NDArray[np.float64]) -> _QueryCodes:
        rest, codes, scales = queries, [], []
        for _ in range(2):
            scale = np.abs(rest).max(axis=1, initial=0.0) / _LEVELS
            code = np.rint(rest / np.where(scale > 0, scale, 1.0)[:, None])
            rest = rest - scale[:, None] * code
            codes.append(code.astype(np.int8))
            scales.append(scale)
        left = 1.1 * np.linalg.norm(rest, axis=1)  # a step's code is no longer than 1 + its error
        return cls(
            numkong.dots_pack(np.concatenate(codes)),
            np.stack(scales).astype(np.float32),
            left.astype(np.float32),
            np.linalg.norm(queries, axis=1).astype(np.float32),
        )

    def scores(self, codes: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coarse cosines, (N, Q) float32."""
        dots = np.asarray(numkong.dots_packed(np.ascontiguousarray(codes), self.packed))
        count = self.scale.shape[1]
        both = dots[:, :count] * self.scale[0] + dots[:, count:] * self.scale[1]
        scores: NDArray[np.float32] = both.astype(np.float32, copy=False) * scale[:, None]
        return scores
