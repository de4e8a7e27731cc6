"""What the loader hands to the model: some captions and each of their clips once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """N captions of C different clips (C <= N: a batch can hold several captions of one clip).

    Attributes
    ----------
    features : (C, T, D) float, zero where padded
    feature_mask : (C, T) bool, true where a step is real
    text_ids, text_mask : (N, L) long and bool, tokens for the text encoder; where it is frozen and its features are
        read from the store, these take the place of the tokens: (N, L, h) float
    labels : (N, L') long, tokens for the caption decoder, -100 where padded; None without captioning
    caption_clip : (N,) long, the row of ``features`` that a caption describes
    clip_ids, caption_ids : names, for messages and the memory bank
    sources : source video of each clip, where clips of one source may not support each other's captions
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

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device`` (asynchronously where memory is pinned)."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)
