"""Exact search over the step vectors of a library: a scan of int8 codes, then the exact scores of what may be best.

A vector v of unit length is stored as ``scale * code``, with the length of the error, ``|v - scale * code|``. By the
inequality of Cauchy and Schwarz the exact score of a unit query differs from the coarse one by no more than that length
(and what the query's own rounding adds). So every clip whose upper bound reaches the k-th best lower bound is scored
exactly, and no other clip can be among the best k. The result is that of a scan in full precision, at a quarter of
float32's bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numkong
import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.store.errors import UsageError

_LEVELS = 127
_BLOCK_BYTES = 1 << 25  # of codes scanned at once by one thread
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


class StepIndex:
    """The step vectors of N clips, searched for the clips whose best step fits a query best.

    Parameters
    ----------
    codes : Codes
        Of all steps, clip after clip.
    offsets : (N + 1,) int64
        Steps ``offsets[i]:offsets[i + 1]`` are those of clip i: at least one.
    read : function
        From clip numbers (M,), ascending, to their exact step vectors, (ΣT, d) floats of any length.
    threads : int, optional
        Default: one for each core that the process may use.

    Raises
    ------
    UsageError
        Offsets that do not divide the codes into clips.
    """

    def __init__(
        self,
        codes: Codes,
        offsets: ArrayLike,
        read: Callable[[NDArray[np.int64]], NDArray[np.floating]],
        threads: int | None = None,
    ) -> None:
        self.codes, self.offsets, self._read = codes, np.asarray(offsets, np.int64), read
        if len(self.offsets) < 1 or self.offsets[-1] != len(codes) or (np.diff(self.offsets) < 1).any():
            raise UsageError(f"step index: offsets do not divide {len(codes)} steps into clips of at least one step")
        self._threads = threads or len(os.sched_getaffinity(0))

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.offsets) - 1

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
        unit = unit_rows(queries)
        if unit.ndim != 2 or unit.shape[1] != self.codes.values.shape[1]:
            raise UsageError(f"queries of shape {unit.shape}, not (Q, {self.codes.values.shape[1]})")
        if not np.isfinite(unit).all():
            raise UsageError("a query's embedding is not finite: the encoder is broken, or the query is")
        lower, upper = self._bounds(unit)
        shut = np.isneginf(upper[:, 0]) if len(upper) else np.zeros(0, bool)
        if allowed is not None:
            shut = shut | ~allowed
        lower[shut] = upper[shut] = -np.inf
        k = min(k, int((~shut).sum()))
        if not k:
            return np.zeros((len(unit), 0), np.int64), np.zeros((len(unit), 0), np.float32)
        clips = np.empty((len(unit), k), np.int64)
        scores = np.empty((len(unit), k), np.float32)
        for number, query in enumerate(unit):
            reach = np.partition(lower[:, number], len(self) - k)[len(self) - k]
            near = np.flatnonzero(upper[:, number] >= reach)
            exact = self._exact(query, near)
            best = np.argsort(-exact, kind="stable")[:k]
            clips[number], scores[number] = near[best], exact[best]
        return clips, scores

    def _bounds(self, queries: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Bounds on the score of each clip's best step, two arrays (N, Q)."""
        coarse = _QueryCodes.of(queries)
        lower = np.empty((len(self), len(queries)), np.float32)
        upper = np.empty_like(lower)
        rows = max(1, _BLOCK_BYTES // max(1, self.codes.values.shape[1]))
        starts = [0]
        while starts[-1] < len(self):  # blocks of whole clips, each of at least one clip
            end = int(np.searchsorted(self.offsets, self.offsets[starts[-1]] + rows, side="right")) - 1
            starts.append(min(len(self), max(end, starts[-1] + 1)))
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(partial(self._bound_block, coarse, lower, upper), starts[:-1], starts[1:]))
        return lower, upper

    def _bound_block(
        self, coarse: _QueryCodes, lower: NDArray[np.float32], upper: NDArray[np.float32], first: int, last: int
    ) -> None:
        steps = slice(int(self.offsets[first]), int(self.offsets[last]))
        error = self.codes.error[steps, None]
        broken = np.isinf(error)
        scores = coarse.scores(self.codes.values[steps], self.codes.scale[steps])
        margin = np.where(broken, 0.0, error * coarse.length + coarse.error + _ROUNDING).astype(np.float32)
        begins = self.offsets[first:last] - self.offsets[first]
        for bound, out in ((scores - margin, lower), (scores + margin, upper)):
            bound[broken[:, 0]] = -np.inf
            out[first:last] = np.maximum.reduceat(bound, begins, axis=0)

    def _exact(self, query: NDArray[np.float64], clips: NDArray[np.int64]) -> NDArray[np.float32]:
        """Exact score of the best step of clips, (M,)."""
        best = np.empty(len(clips), np.float32)
        lengths = self.offsets[clips + 1] - self.offsets[clips]
        block = np.cumsum(lengths) * self.codes.values.shape[1] * 8 // _BLOCK_BYTES
        for part in np.split(np.arange(len(clips)), np.flatnonzero(np.diff(block)) + 1):
            scores = cosine_scores(query[None], unit_rows(self._read(clips[part])))[0]
            scores = np.where(np.isfinite(scores), scores, -np.inf)
            best[part] = np.maximum.reduceat(scores, np.cumsum(lengths[part]) - lengths[part])
        return best


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
