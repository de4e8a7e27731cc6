"""Mean over the steps; the codes are the projected steps."""

from __future__ import annotations

from torch import Tensor, nn

from supportset.train.config import VideoConfig
from supportset.train.model.sequence_head import masked_mean


class Aggregation(nn.Module):
    """Mean pooling."""

    added_positions = 0

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pool (C, T, w) over the steps of the mask; the steps and their mask stay as they are."""
        return masked_mean(values, mask), values, mask
