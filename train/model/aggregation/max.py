"""Maximum over the steps; the codes are the projected steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supportset.train.config import VideoConfig


class Aggregation(nn.Module):
    """Max pooling."""

    added_positions = 0

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pool (C, T, w) over the steps of the mask; the steps and their mask stay as they are."""
        return masked_max(values, mask), values, mask


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Maximum of (B, M, d) over the positions of a (B, M) bool mask; zero where there is none."""
    highest = values.masked_fill(~mask.unsqueeze(-1), torch.finfo(values.dtype).min).amax(1)
    return highest.masked_fill(~mask.any(1, keepdim=True), 0.0)
