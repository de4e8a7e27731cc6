"""Features of some clips in RAM or in the memory of a GPU, for all of a training.

A batch is then one indexed copy, without Python code for each clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from supportset.store.files.memory import copy_rows, empty_aligned
from supportset.store.format.shard import Array
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.padding import Layout, lay_out, packed_rows

if TYPE_CHECKING:
    import torch

_BLOCK_BYTES = 64 * 2**20  # read at a time while packing: bounds the memory that is needed twice


def thinned(length: int, max_steps: int) -> Array:
    """Return the steps to keep of ``length``: all, or the middles of ``max_steps`` equal parts."""
    if length <= max_steps:
        return np.arange(length)
    return ((np.arange(max_steps) + 0.5) * length / max_steps).astype(np.int64)


class ResidentFeatures:
    """Features of some clips in one packed array.

    Parameters
    ----------
    source : FeatureSet or AlignedFeatures
        A feature set, or several side by side, that have all of the clips.
    clip_ids : sequence of str, optional
        Which, and in which order; default: all of the source.
    max_steps : int, optional
        Longer clips are thinned evenly to this many steps while loading; default: none is.
    device : torch.device or str, optional
        A CUDA device whose memory is to hold the values; default: RAM.

    Attributes
    ----------
    clip_ids : sequence of str, optional
        List of str, N.
    lengths : (N,) int64
        Steps of each clip.
    offsets : (N + 1,) int64
        Rows of ``values`` where clips begin.
    values : (ΣT + 1, D) array
        Or tensor on the device, in the source's dtype. The last row is zeros, for padding.
    dim : int
        D.

    Raises
    ------
    SupportsetError
        The source has no features of a clip, or a shard is damaged.

    Examples
    --------
    >>> resident = ResidentFeatures(FeatureSet.open(path))                       # doctest: +SKIP
    >>> values, offsets = resident.gather(rng.integers(0, len(resident), 256))   # doctest: +SKIP
    """

    def __init__(
        self,
        source: FeatureSet | AlignedFeatures,
        clip_ids: Sequence[str] | None = None,
        *,
        max_steps: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.clip_ids = list(source.clip_ids if clip_ids is None else clip_ids)
        self.dim = source.dim
        rows = source.find(self.clip_ids)
        stored = source.lengths_of(rows)
        self.lengths = stored if max_steps is None else np.minimum(stored, max_steps)
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        shape = int(self.offsets[-1]) + 1, self.dim
        self.values: Any = _empty(shape, source.dtype, device)
        self.values[-1] = 0
        for first, last in _blocks(stored * self.dim * source.dtype.itemsize):
            block = slice(first, last)
            packed = slice(int(self.offsets[first]), int(self.offsets[last]))
            if device is None:
                _read(source, rows[block], stored[block], self.lengths[block], self.values[packed])
            else:  # block by block too: RAM may be smaller than the GPU's memory
                room = empty_aligned((packed.stop - packed.start, self.dim), source.dtype)
                _read(source, rows[block], stored[block], self.lengths[block], room)
                _copy(room, self.values[packed])

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clip_ids)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the values take."""
        return int(self.values.nbytes)

    def gather(self, rows: Array, out: Any = None) -> tuple[Any, Array]:
        """Copy and concatenate clips, as :meth:`supportset.store.read.feature_set.FeatureSet.read_rows` does.

        Parameters
        ----------
        rows : (M,) numbers array
            Of clips.
        out : (at least ΣT, D) array
            Or tensor to copy into; what is returned views it.

        Returns
        -------
        values : (ΣT, D) array
            Or tensor on the device.
        offsets : (M + 1,) int64
            Clip ``i`` of those asked has the rows ``offsets[i]:offsets[i + 1]``.
        """
        lengths = self.lengths[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return self.take(packed_rows(self.offsets[rows], lengths, offsets), out), offsets

    def pad(self, rows: Array, out: Any = None) -> tuple[Any, Array]:
        """Copy clips into one array of equal lengths.

        Parameters
        ----------
        rows : (M,) numbers array
            Of clips.
        out : (at least M x T, D) array
            Or tensor to copy into; what is returned views it.

        Returns
        -------
        values : (M, T, D)
            Zero behind a clip's end; T is the longest of these clips, at least 1.
        lengths : (M,) int64
        """
        layout = self.lay_out(rows, [len(rows)])
        return self.take(layout.rows, out).reshape(len(rows), int(layout.widths[0]), self.dim), self.lengths[rows]

    def lay_out(self, rows: Array, sizes: Sequence[int] | Array) -> Layout:
        """Lay out many padded batches at once, for :meth:`take`.

        Parameters
        ----------
        rows : (M,) numbers array
            Of clips, batch after batch.
        sizes : (B,) array
            Clips in each batch, at least one where there are any; M in all.
        """
        return lay_out(self.offsets[rows], self.lengths[rows], sizes, len(self.values) - 1)

    def take(self, steps: Array, out: Any = None) -> Any:
        """Copy rows of ``values``: (S,) int64 give (S, D), in ``out`` where that is given."""
        if isinstance(self.values, np.ndarray):
            out = empty_aligned((len(steps), self.dim), self.values.dtype) if out is None else out[: len(steps)]
            return copy_rows(self.values, steps, out)
        import torch

        index = torch.from_numpy(steps).to(self.values.device, non_blocking=True)
        return torch.index_select(self.values, 0, index, out=None if out is None else out[: len(steps)])


def resident_bytes(source: FeatureSet | AlignedFeatures, clip_ids: Sequence[str], max_steps: int | None = None) -> int:
    """Compute the bytes that :class:`ResidentFeatures` of these clips would take."""
    lengths = source.lengths(clip_ids)
    steps = int((lengths if max_steps is None else np.minimum(lengths, max_steps)).sum()) + 1
    return steps * source.dim * source.dtype.itemsize


def _blocks(sizes: Array) -> list[tuple[int, int]]:
    """Divide clips into runs of at most a block, or of one larger clip."""
    blocks, first, held = [], 0, 0
    for number, size in enumerate(sizes.tolist()):
        if held and held + size > _BLOCK_BYTES:
            blocks.append((first, number))
            first, held = number, 0
        held += size
    return [*blocks, (first, len(sizes))] if len(sizes) else []


def _read(source: FeatureSet | AlignedFeatures, rows: Array, stored: Array, lengths: Array, room: Array) -> None:
    """Read clips into a (sum of lengths, D) array, each thinned from its stored number of steps to its length."""
    if (stored == lengths).all():
        source.read_rows(rows, room)
        return
    values, offsets = source.read_rows(rows)
    kept = [
        start + thinned(steps, limit)
        for start, steps, limit in zip(offsets[:-1].tolist(), stored.tolist(), lengths.tolist(), strict=True)
    ]
    copy_rows(values, np.concatenate(kept), room)


def _empty(shape: tuple[int, int], dtype: np.dtype[Any], device: torch.device | str | None) -> Any:
    """An array, or a tensor on the device."""
    if device is None:
        return empty_aligned(shape, dtype)
    import torch

    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)


def _copy(room: Array, target: torch.Tensor) -> None:
    import torch

    target.copy_(torch.from_numpy(room))
