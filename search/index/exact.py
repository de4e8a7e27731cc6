"""The exact scan over what is kept of a library: codes of the parts of clips, or of clips as wholes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.kept import kept_clips, kept_parts
from supportset.search.kept.rows import KeptRows, Result, with_repair
from supportset.search.parts import read_parts
from supportset.search.step_index import StepIndex

if TYPE_CHECKING:
    from supportset.search.index.registry import Found
    from supportset.search.retriever import Clips, Retriever


_BLOCK = 1 << 14  # embeddings of clips at once


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
        return self._repaired(lambda: self.steps.search(queries, k, allowed))

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Exact vectors of the parts of clips, (P, d)."""
        ids = self._clips.features.clip_ids
        return read_parts(self._retriever, self._clips.features, [ids[number] for number in numbers]).vectors

    def best_of(
        self, query: NDArray[np.float64], numbers: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the k best among some clips, whose numbers ascend, for a query of unit length."""
        return self._repaired(lambda: self.steps.best_of(query, numbers, k))

    def _open(self, in_memory: bool) -> StepIndex:
        self.kept = self._keep(in_memory)
        self.notes = self.kept.notes
        return StepIndex(self.kept.segments, self.kept.clips, self.read)

    def _repaired(self, act: Callable[[], Result]) -> Result:
        """Do what reads kept files; where one is damaged or gone, open again and do it again."""
        tried = False

        def again(in_memory: bool) -> Result:
            nonlocal tried
            if tried:
                self.steps = self._open(in_memory)
            tried = True
            return act()

        return with_repair(again)

    def _keep(self, in_memory: bool) -> KeptRows:
        return kept_parts(self._retriever, self._clips, in_memory)


class WholeClipIndex(ExactIndex):
    """The same over the embeddings of clips, one of each; exact ones are mapped from what is kept."""

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of clips, (M, d)."""
        return self.kept.of_clips("embedding", numbers)

    def blocks(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
        """Embeddings of clips, some after others, (n, d) of unit length."""
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK]
            yield unit_rows(self._repaired(partial(self.read, block)))

    def _keep(self, in_memory: bool) -> KeptRows:
        return kept_clips(self._retriever, self._clips, in_memory)
