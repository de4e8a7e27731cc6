"""From stored features x_i to video codes: the contextualised sequence e_v and the embedding c_v."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from supportset.train.config import VideoConfig
from supportset.train.model.sequence_head import InputProjection
from supportset.train.registry import AGGREGATION


class VideoCodes(NamedTuple):
    """What the video side gives for C clips.

    Attributes
    ----------
    embedding : Tensor
        (C, d) float, c_v.
    sequence : Tensor
        (C, M, d_e) float, e_v, zero where padded.
    mask : Tensor
        (C, M) bool, true where a position of the sequence is real.
    """

    embedding: Tensor
    sequence: Tensor
    mask: Tensor


class VideoEncoder(nn.Module):
    """Video head over frozen features.

    Parameters
    ----------
    config : VideoConfig
        Sizes and the kind of aggregation.
    feature_dim : int
        D of the stored features.
    dim : int
        d of the joint space.

    Notes
    -----
    An aggregation is a module of ``aggregation/`` or an entry point ``supportset.aggregations``: a class that takes the
    ``video`` section. It turns projected steps (C, T, d_e) and their mask into the pooled vector (C, d_e), the video
    codes (C, M, d_e) and their mask. ``added_positions`` is M - T: 1 for a learned token before the steps. That
    position holds a summary of every clip, so a mixture has one position that is aligned for clips of any length.
    """

    def __init__(self, config: VideoConfig, feature_dim: int, dim: int) -> None:
        super().__init__()
        self.project = InputProjection(feature_dim, config.width, config.norm, config.dropout)
        self.head = AGGREGATION.load(config.aggregation)(config)
        self.embed = nn.Linear(config.width, dim)

    def positions(self, steps: int) -> int:
        """M of a clip of so many steps."""
        return steps + int(self.head.added_positions)

    def forward(self, features: Tensor, mask: Tensor) -> VideoCodes:
        """Encode (C, T, D) features with their (C, T) mask; what is in padded steps changes nothing."""
        pooled, sequence, mask = self.head(self.project(features, mask), mask)
        return VideoCodes(self.embed(pooled), sequence, mask)
