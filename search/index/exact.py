"""The exact scan over what is kept of a library's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.search.kept import kept_parts
from supportset.search.kept.rows import KeptRows, with_repair
from supportset.search.parts import read_parts
from supportset.search.step_index import StepIndex

if TYPE_CHECKING:
    from supportset.search.index.registry import Found
    from supportset.search.retriever import Clips, Retriever


class ExactIndex:
    """`StepIndex` over the kept codes of all parts (``steps``); exact vectors are read from the store.

    A file that is damaged, or that another process removed, is noticed when it is first used: then the codes are
    opened again, and what is missing is computed.
    """

    def __init__(self, retriever: Retriever, clips: Clips) -> None:
        self._retriever, self._clips = retriever, clips
        self.notes: tuple[str, ...] = ()
        self.kept: KeptRows
        self.steps = with_repair(self._open)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.steps)

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"index": "exact"}

    def search(self, queries: ArrayLike, k: int, allowed: NDArray[np.bool_] | None = None) -> Found:
        """Find the k clips with the best parts: see `Index`."""

        tried = False

        def act(in_memory: bool) -> Found:
            nonlocal tried
            if tried:
                self.steps = self._open(in_memory)
            tried = True
            return self.steps.search(queries, k, allowed)

        return with_repair(act)

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Exact vectors of the parts of clips, (P, d)."""
        ids = self._clips.features.clip_ids
        return read_parts(self._retriever, self._clips.features, [ids[number] for number in numbers]).vectors

    def score(self, query: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Exact scores of clips, (M,), whose numbers ascend, for a query of unit length."""
        return self.steps.exact(query, numbers)

    def _open(self, in_memory: bool) -> StepIndex:
        self.kept = kept_parts(self._retriever, self._clips, in_memory)
        self.notes = self.kept.notes
        return StepIndex(self.kept.segments, self.kept.clips, self.read)
