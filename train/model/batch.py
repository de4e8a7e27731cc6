"""What the loader passes to the model: some captions and each of their clips once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RankShard:
    """The part of a batch that one of several processes computes: a run of its clips, and a run of its captions.

    Attributes
    ----------
    rank : int
        Of this process.
    clips, captions : tuple of int
        How many each process has; their sums are C and N.
    steps : int
        T of the whole batch.
    """

    rank: int
    clips: tuple[int, ...]
    captions: tuple[int, ...]
    steps: int

    @classmethod
    def of(cls, rank: int, processes: int, clips: int, captions: int, steps: int) -> RankShard:
        """Cut the shard of a process, no larger than another's by more than one clip and one caption."""
        return cls(rank, _even(clips, processes), _even(captions, processes), steps)

    @property
    def clip_rows(self) -> slice:
        """The clips that the process encodes: its own, or where it has none the first one, which does not count."""
        return _run(self.clips, self.rank)

    @property
    def caption_rows(self) -> slice:
        """The captions that the process encodes and decodes: its own, or where it has none one that does not count."""
        return _run(self.captions, self.rank)


def _even(number: int, parts: int) -> tuple[int, ...]:
    return tuple(number // parts + (part < number % parts) for part in range(parts))


def _run(sizes: tuple[int, ...], rank: int) -> slice:
    # Every process runs through every part of the model, so that all meet in the same exchanges.
    first = [0, *accumulate(sizes)][rank] if sizes[rank] else 0
    return slice(first, first + max(1, sizes[rank]))


@dataclass
class Batch:
    """N captions of C different clips (C <= N: a batch can hold several captions of one clip).

    Where several processes train together, ``features``, ``text_ids`` and ``labels`` with their masks hold the rows of
    this process's shard alone; everything else is of the whole batch.

    Attributes
    ----------
    features : Tensor
        (C, T, D) float, x_i, zero where padded.
    feature_mask : Tensor
        (C, T) bool, true where a step is real.
    text_ids, text_mask : Tensor
        (N, L) long and bool, tokens for the text encoder. Where the encoder is frozen and its features are read from
        the store, ``text_ids`` are these, (N, L, h) float.
    labels : Tensor, optional
        (N, L') long, t_i for the caption decoder, -100 where padded; None without captioning.
    caption_clip : Tensor
        (N,) long, the row of ``features`` that a caption describes.
    clip_ids, caption_ids : list of str
        Names, for messages and the memory bank.
    sources : list of int, optional
        Source video of each clip, where clips of one source may not support each other's captions.
    shard : RankShard, optional
        Which rows this process computes; None: all of them.
    """

    features: Tensor
    feature_mask: Tensor
    text_ids: Tensor
    text_mask: Tensor
    labels: Tensor | None
    caption_clip: Tensor
    clip_ids: list[str]
    caption_ids: list[str]
    sources: list[int] | None = None
    shard: RankShard | None = None

    def may_support(self) -> Tensor | None:
        """(C, C) bool, false where two clips are of one source that may not support itself; None: no such rule."""
        if self.sources is None:
            return None
        sources = torch.tensor(self.sources, device=self.caption_clip.device)
        return sources[:, None] != sources[None, :]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device`` (asynchronously where memory is pinned)."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)
