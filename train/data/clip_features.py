"""Padded batches of clips' features for a device: from memory, or from mapped files where memory is too small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supportset.store.errors import UsageError
from supportset.store.files.memory import empty_aligned
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.padding import Layout, lay_out
from supportset.store.read.resident import ResidentFeatures, resident_bytes, thinned
from supportset.train.data.free_memory import free_memory

Place = Literal["auto", "gpu", "ram", "disk"]

_OF_RAM = 0.6  # of what is free: the most that features may take before they stay on disk
_OF_GPU = 0.3


class ClipFeatures:
    """Features of some clips, cut to at most ``max_steps`` steps, as padded batches.

    Parameters
    ----------
    source : AlignedFeatures
        Aligned feature sets that hold all of ``clip_ids``.
    clip_ids : sequence of str
        Order of the rows.
    max_steps : int
        Longer clips are thinned evenly to this many steps.
    device : device or str
        Device of the batches.
    place : Place
        Where the features are kept: ``gpu`` (the device's memory), ``ram``, ``disk`` (mapped files, read batch by
        batch), or ``auto``: the first of these with enough room.
    buffers : int
        Buffers to gather batches into, used in turn: a batch is valid until its buffer is used again. On a GPU
        they are pinned, and copied from while the next is filled. 0: each batch is a new array.
    holders : int
        Processes of this machine that hold these features, each its own copy: for ``auto``.

    Attributes
    ----------
    clip_ids : sequence of str
        List of str.
    lengths : (N,) int64
        Steps of each clip.
    thinned : int
        Number of clips that had more steps.
    dim : D
    place : Place
        Where the features are kept: ``gpu``, ``ram`` or ``disk``.
    nbytes : that they take there

    Raises
    ------
    UsageError
        ``gpu`` without one.
    """

    def __init__(
        self,
        source: AlignedFeatures,
        clip_ids: Sequence[str],
        max_steps: int,
        *,
        device: torch.device | str = "cpu",
        place: Place = "auto",
        buffers: int = 0,
        holders: int = 1,
    ) -> None:
        self.clip_ids, self.dim = list(clip_ids), source.dim
        self._device, self._max_steps = torch.device(device), max_steps
        self._dtype = source.dtype
        self.nbytes = resident_bytes(source, self.clip_ids, max_steps)
        if place == "gpu" and self._device.type != "cuda":
            raise UsageError(f"data.place = 'gpu', but the run is on {self._device}: use auto, ram or disk")
        self.place = _choose(self.nbytes, self._device, holders) if place == "auto" else place
        self._source, self._rows = source, source.find(self.clip_ids)
        lengths = source.lengths_of(self._rows)
        self.lengths, self.thinned = np.minimum(lengths, max_steps), int((lengths > max_steps).sum())
        self._held: ResidentFeatures | None = None
        if self.place != "disk":
            gpu = self._device if self.place == "gpu" else None
            self._held = ResidentFeatures(source, self.clip_ids, max_steps=max_steps, device=gpu)
        self._buffers = [_Buffer(self._device) for _ in range(buffers)]
        self._turn = 0

    def __len__(self) -> int:
        return len(self.clip_ids)

    def gather(
        self, rows: NDArray[np.int64], places: tuple[NDArray[np.int64], Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Padded features of some clips, on the device.

        Parameters
        ----------
        rows : (C,) int64
            Numbers of clips.
        places : tuple, optional
            What `lay_out` gave for this batch, where many were laid out at once.

        Returns
        -------
        (C, T, D) in the stored dtype, zero where padded, T being the longest of these clips; (C, T) bool mask
        """
        steps, real = next(iter(self.lay_out(rows, [len(rows)]))) if places is None else places
        mask = torch.from_numpy(real)
        if self._device.type != "cpu":
            mask = mask.to(self._device)
        shape = (*real.shape, self.dim)
        if self._held is not None and self.place == "gpu":
            return self._held.take(steps).view(shape), mask
        buffer = self._buffers[self._turn] if self._buffers else _Buffer(self._device)
        self._turn = (self._turn + 1) % max(1, len(self._buffers))
        room = buffer.room(len(steps), self.dim, self._dtype)
        if self._held is not None:
            self._held.take(steps, room)
        else:
            self._pad_from_disk(rows, room.reshape(shape))
        return buffer.sent(shape), mask

    def lay_out(self, rows: NDArray[np.int64], sizes: Sequence[int] | NDArray[np.int64]) -> Layout:
        """Work out many batches at once: (M,) numbers of clips, batch after batch, and how many are in each."""
        if self._held is not None:
            return self._held.lay_out(rows, sizes)
        lengths = self.lengths[rows]
        return lay_out(np.zeros_like(lengths), lengths, sizes, 0)  # from a disk only lengths matter

    def prefetch(self, rows: NDArray[np.int64]) -> None:
        """Prefetch clips of a later batch; does nothing if they are in memory."""
        if self._held is None:
            self._source.prefetch(self._rows[rows])

    def _pad_from_disk(self, rows: NDArray[np.int64], room: NDArray[Any]) -> None:
        values, offsets = self._source.read_rows(self._rows[rows])
        for target, first, last in zip(room, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            clip = values[first:last]
            kept = clip if len(clip) <= self._max_steps else clip[thinned(len(clip), self._max_steps)]
            target[: len(kept)] = kept
            target[len(kept) :] = 0


class _Buffer:
    """A buffer for one batch, and its transfer to the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: NDArray[Any] | None = None
        self._pinned: Tensor | None = None  # owns the memory where it is pinned
        self._room: NDArray[Any] | None = None
        self._copied: torch.cuda.Event | None = None

    def room(self, rows: int, dim: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Array (rows, dim) to write to, once the previous batch is on the device."""
        if self._copied is not None:
            self._copied.synchronize()
        if self._memory is None or len(self._memory) < rows:
            self._memory = empty_aligned((rows, dim), dtype)
            if self._device.type == "cuda":
                self._pinned = torch.from_numpy(self._memory).pin_memory()
                self._memory = self._pinned.numpy()
        self._room = self._memory[:rows]
        return self._room

    def sent(self, shape: tuple[int, ...]) -> Tensor:
        """The written batch on the device, in this shape; on a GPU the copy may still run."""
        assert self._room is not None
        if self._pinned is None:
            rows = torch.from_numpy(self._room.reshape(shape))
            return rows if self._device.type == "cpu" else rows.to(self._device)
        sent = self._pinned[: len(self._room)].view(shape).to(self._device, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()
        return sent


def _choose(size: int, device: torch.device, holders: int) -> Literal["gpu", "ram", "disk"]:
    """The fastest place with enough room; RAM holds one copy for each process."""
    if device.type == "cuda" and size < _OF_GPU * torch.cuda.mem_get_info(device)[0]:
        return "gpu"
    return "ram" if size * holders < _OF_RAM * free_memory() else "disk"
