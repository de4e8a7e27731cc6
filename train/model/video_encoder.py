"""From stored features to video codes: the contextualised sequence and the embedding in the joint space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from supportset.train.config import VideoConfig
from supportset.train.model.sequence_head import InputProjection, SequenceHead


class VideoCodes(NamedTuple):
    """What the video side gives for C clips.

    Attributes
    ----------
    embedding : (C, d) float, ``c_v``
    sequence : (C, M, d_e) float, ``e_v``, zero where padded
    mask : (C, M) bool, true where a position of the sequence is real
    """

    embedding: Tensor
    sequence: Tensor
    mask: Tensor


class VideoEncoder(nn.Module):
    """Video head over frozen features.

    Parameters
    ----------
    config : sizes and the kind of aggregation
    feature_dim : D of the stored features
    dim : d of the joint space

    Notes
    -----
    ``transformer`` puts a learned token before the steps; its output is projected to the joint space. The video
    codes are all outputs, the token's first: M = T + 1, and position 0 holds a summary for every clip, so the
    mixture of a support set has one position that is aligned whatever the clips' lengths.
    ``attention`` is the same with plain multi-head attention in each block. ``mean`` and ``max`` pool the
    projected steps, which are then the codes: M = T.
    """

    def __init__(self, config: VideoConfig, feature_dim: int, dim: int) -> None:
        super().__init__()
        self.aggregation = config.aggregation
        self.project = InputProjection(feature_dim, config.width, config.norm, config.dropout)
        self.head: SequenceHead | None = None
        if config.aggregation in ("transformer", "attention"):
            whole = config.aggregation == "transformer"
            self.head = SequenceHead(
                config.width,
                config.layers,
                config.heads,
                config.norm,
                config.dropout,
                local="convolution" if whole else "none",
                kernel=config.kernel,
                feed_forward=whole,
            )
        self.embed = nn.Linear(config.width, dim)

    def positions(self, steps: int) -> int:
        """M of a clip of so many steps."""
        return steps + (self.head is not None)

    def forward(self, features: Tensor, mask: Tensor) -> VideoCodes:
        """Encode (C, T, D) features with their (C, T) mask; what stands in padded steps changes nothing."""
        sequence = self.project(features, mask)
        if self.head is not None:
            sequence, mask = self.head(sequence, mask)
            pooled = sequence[:, 0]
        elif self.aggregation == "max":
            pooled = masked_max(sequence, mask)
        else:
            pooled = masked_mean(sequence, mask)
        return VideoCodes(self.embed(pooled), sequence, mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, M, d) over the positions of a (B, M) bool mask; zero where there is none."""
    kept = values.masked_fill(~mask.unsqueeze(-1), 0.0)
    mean: Tensor = kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return mean


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Maximum of (B, M, d) over the positions of a (B, M) bool mask; zero where there is none."""
    highest = values.masked_fill(~mask.unsqueeze(-1), torch.finfo(values.dtype).min).amax(1)
    return highest.masked_fill(~mask.any(1, keepdim=True), 0.0)
