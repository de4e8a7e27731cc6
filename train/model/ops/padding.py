"""Padded sequences without their padding: positions packed one after another, or apart by sequence again.

Clips and captions of a batch differ in length: padded to the longest, a third of the positions and more are nothing.
Linear maps, normalisations and dropout look at one position at a time, so they need see the real ones alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Positions:
    """Which positions of B padded sequences are computed on: R of them.

    Parameters
    ----------
    rows : Tensor, optional
        (R,) long, counted through (B, L); None: all of them.
    mask : Tensor
        (B, L) bool, true where a position is real; in each sequence these come first.

    Attributes
    ----------
    real : (R,) bool, true where a position is real; None where all are
    """

    def __init__(self, rows: Tensor | None, mask: Tensor) -> None:
        self._rows, self._mask = rows, mask
        self._sequences, self._length = mask.shape
        self.real = mask.flatten() if rows is None else None

    @classmethod
    def of(cls, mask: Tensor) -> Positions:
        """Keep the real positions on a CPU, all of them elsewhere: a count of the real ones would stall the device."""
        return cls(mask.flatten().nonzero().squeeze(1) if mask.device.type == "cpu" else None, mask)

    def unpad(self, values: Tensor) -> Tensor:
        """(B, L, d) as (R, d)."""
        flat = values.flatten(0, 1)
        return flat if self._rows is None else flat.index_select(0, self._rows)

    def pad(self, values: Tensor) -> Tensor:
        """(R, d) as (B, L, d), zero where nothing was computed."""
        if self._rows is not None:
            blank = values.new_zeros(self._sequences * self._length, values.shape[1])
            values = blank.index_copy(0, self._rows, values)
        return values.view(self._sequences, self._length, -1)

    def heads(self, values: Tensor, heads: int) -> Tensor:
        """(R, d) as (B, heads, L, d / heads): for attention."""
        return self.pad(values).unflatten(2, (heads, -1)).transpose(1, 2)

    def join_heads(self, values: Tensor) -> Tensor:
        """(B, heads, L, d / heads) as (R, d)."""
        return self.unpad(values.transpose(1, 2).flatten(2))

    def windows(self, values: Tensor, kernel: int) -> Tensor:
        """(R, d) as (R, kernel x d): each position with its neighbours, zeros beyond its sequence's ends.

        Of an even kernel the longer side is after the position, as PyTorch's ``padding="same"`` has it.
        """
        length = self._length
        if self._rows is None:
            at = torch.arange(self._sequences * length, device=values.device) % length
            last = torch.full_like(at, length - 1)
        else:
            at = self._rows % length
            last = self._mask.sum(1)[self._rows // length] - 1
        shifted = []
        for offset in range(-((kernel - 1) // 2), kernel // 2 + 1):
            if offset == 0:
                shifted.append(values)
                continue
            # What a shift brings from the next sequence, or from beyond all of them, is no neighbour.
            before, after = max(0, -offset), max(0, offset)
            moved = F.pad(values[after : len(values) - before], (0, 0, before, after))[: len(values)]
            strange = (at + offset < 0) | (at + offset > last)
            shifted.append(moved.masked_fill(strange.unsqueeze(1), 0.0))
        return torch.cat(shifted, 1)

    def recurrence(self, layer: torch.nn.GRU, values: Tensor) -> Tensor:
        """(R, d) through a GRU from each sequence's first position to its last: (R, h)."""
        padded = self.pad(values)
        if self._rows is None:  # padding stands at the end, so that no real position sees it
            return self.unpad(layer(padded)[0])
        lengths = self._mask.sum(1)
        packed = pack_padded_sequence(padded, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=self._length)
        return self.unpad(outputs)


def clear_padding(values: Tensor, real: Tensor | None) -> Tensor:
    """(R, d) with zeros where ``real``, (R,) bool, is false; None: as they are. Unlike a product it clears NaN."""
    return values if real is None else values.masked_fill(~real.unsqueeze(1), 0.0)
