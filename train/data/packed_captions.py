"""Captions packed into one array; a batch is one indexed copy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from supportset.store.read.padding import Layout, lay_out


class PackedCaptions(ABC):
    """Tokens of captions, or features of them, one caption after the other.

    Parameters
    ----------
    lengths : (N,) int64
        Tokens of each caption.
    """

    def __init__(self, lengths: NDArray[np.int64]) -> None:
        self.lengths = lengths
        self._starts = np.cumsum(lengths) - lengths
        self._blank = int(lengths.sum())  # row after the last caption, which pads shorter ones

    def __len__(self) -> int:
        return len(self.lengths)

    def lay_out(self, rows: NDArray[np.int64], sizes: Sequence[int] | NDArray[np.int64]) -> Layout:
        """Lay out many batches at once: (M,) numbers of captions, batch after batch, and the size of each batch."""
        return lay_out(self._starts[rows], self.lengths[rows], sizes, self._blank)

    def pad(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Padded captions, (N, L) or (N, L, h), and their (N, L) bool mask; L is the longest, at least 1."""
        return next(self.batches(self.lay_out(rows, [len(rows)])))

    @abstractmethod
    def batches(self, layout: Layout) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a layout, each as `pad` returns it."""
