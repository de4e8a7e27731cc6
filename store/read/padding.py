"""Padded batches of sequences of a packed array, as row numbers.

A batch of 64 clips is copied in a fifth of a millisecond; a dozen small NumPy calls take as long. So many batches are
laid out together, and each costs one indexed copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from supportset.store.format.shard import Array


@dataclass(frozen=True)
class Layout:
    """Layout of B padded batches.

    Attributes
    ----------
    rows : (sum of N x T over the batches,) int64
        Rows of the packed array, batch after batch.
    real : ndarray
        Bool of the same shape, false where padded.
    sizes : (B,) int64
        N, sequences of each batch.
    widths : (B,) int64
        T of each batch: its longest sequence, at least 1.
    """

    rows: Array
    real: Array
    sizes: Array
    widths: Array

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """The batches: rows of the packed array, (N x T,) int64, and the (N, T) bool mask."""
        first = 0
        for size, width in zip(self.sizes.tolist(), self.widths.tolist(), strict=True):
            last = first + size * width
            yield self.rows[first:last], self.real[first:last].reshape(size, width)
            first = last


def packed_rows(starts: Array, lengths: Array, offsets: Array) -> Array:
    """Compute the row numbers of sequences in an array, concatenated.

    Parameters
    ----------
    starts : (N,) int64
        First row of each sequence.
    lengths : (N,) int64
        Number of rows of each.
    offsets : (N + 1,) int64
        Where each sequence begins in the result, and where the last one ends.

    Returns
    -------
    (sum of lengths,) int64
    """
    rows = np.arange(offsets[-1])
    rows += np.repeat(starts - offsets[:-1], lengths)
    return rows


def lay_out(starts: Array, lengths: Array, sizes: Sequence[int] | Array, blank: int) -> Layout:
    """Lay out batches of sequences.

    Parameters
    ----------
    starts : (N,) int64
        First row of each sequence, batch after batch.
    lengths : (N,) int64
        Number of rows of each.
    sizes : (B,) array
        Sequences in each batch, at least one where there are any; N in all.
    blank : int
        Row for the padding.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if not len(lengths):
        return Layout(np.zeros(0, np.int64), np.zeros(0, bool), sizes, np.ones(len(sizes), np.int64))
    widths = np.maximum(np.maximum.reduceat(lengths, np.cumsum(sizes) - sizes), 1)
    each = np.repeat(widths, sizes)
    rows = packed_rows(starts, each, np.concatenate([[0], np.cumsum(each)]))
    real = rows < np.repeat(starts + lengths, each)
    rows[~real] = blank
    return Layout(rows, real, sizes, widths)
