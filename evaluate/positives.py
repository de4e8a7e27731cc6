"""Which candidates are right for a query: one, several, or several with grades."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

ABSENT = -1


@dataclass(frozen=True)
class Positives:
    """Right candidates of each query, one pair an entry, sorted by query.

    Attributes
    ----------
    queries : int
        Q, the number of queries; some may have no right candidate.
    query : (P,) int64
        From 0 to Q - 1.
    candidate : (P,) int64
        Number of the candidate; `ABSENT` where it is right but has no embedding: it is never found.
    gain : (P,) float64
        Grade, above 0.
    """

    queries: int
    query: NDArray[np.int64]
    candidate: NDArray[np.int64]
    gain: NDArray[np.float64]

    @classmethod
    def of_pairs(cls, queries: int, query: ArrayLike, candidate: ArrayLike, gain: ArrayLike | None = None) -> Positives:
        """Sort pairs by query. A pair that is given twice is an error of the caller."""
        asked = np.asarray(query, dtype=np.int64)
        found = np.asarray(candidate, dtype=np.int64)
        gains = np.ones(len(asked)) if gain is None else np.asarray(gain, dtype=np.float64)
        order = np.argsort(asked, kind="stable")
        return cls(queries, asked[order], found[order], gains[order])

    @classmethod
    def of_groups(cls, query_group: ArrayLike, candidate_group: ArrayLike) -> Positives:
        """A candidate is right for all queries of the same group, such as the number of their clip."""
        asked, groups = np.asarray(query_group).ravel(), np.asarray(candidate_group).ravel()
        order = np.argsort(groups, kind="stable")
        first = np.searchsorted(groups, asked, side="left", sorter=order)
        last = np.searchsorted(groups, asked, side="right", sorter=order)
        counts = last - first
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        query = np.repeat(np.arange(len(asked)), counts)
        candidate = order[np.repeat(first, counts) + inside]
        return cls(len(asked), query.astype(np.int64), candidate.astype(np.int64), np.ones(len(query)))

    @property
    def first(self) -> NDArray[np.int64]:
        """Where the pairs of each query begin, and where those of the last end: (Q + 1,)."""
        return np.searchsorted(self.query, np.arange(self.queries + 1)).astype(np.int64)

    def per_query(self) -> NDArray[np.int64]:
        """Number of right candidates of each query, absent ones included: (Q,)."""
        return np.bincount(self.query, minlength=self.queries).astype(np.int64)
