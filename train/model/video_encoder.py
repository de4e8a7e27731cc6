"""From stored features x_i to video codes: the contextualised sequence e_v and the embedding c_v."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supportset.store.errors import UsageError
from supportset.train.config import VideoConfig
from supportset.train.model.sequence_head import InputProjection, masked_mean
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

    Raises
    ------
    UsageError
        ``init = "identity"`` with fewer features than ``dim``.

    Notes
    -----
    With ``init = "identity"`` the embedding is the `zero_shot` embedding of the first ``dim`` features, plus the head,
    whose last layer starts at zero. Further feature sets, side by side with the first, reach the head alone.

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
        self.base_dim = dim if config.init == "identity" else 0
        if self.base_dim > feature_dim:
            raise UsageError(
                f"video.init = 'identity' starts at the features themselves: set dim = {feature_dim}, not {dim}"
            )
        if self.base_dim:
            start_at_zero(self.embed)

    def positions(self, steps: int) -> int:
        """M of a clip of so many steps."""
        return steps + int(self.head.added_positions)

    def forward(self, features: Tensor, mask: Tensor) -> VideoCodes:
        """Encode (C, T, D) features with their (C, T) mask; what is in padded steps changes nothing."""
        pooled, sequence, codes_mask = self.head(self.project(features, mask), mask)
        embedding = self.embed(pooled)
        if self.base_dim:
            embedding = embedding + zero_shot(features[..., : self.base_dim], mask)
        return VideoCodes(embedding, sequence, codes_mask)


def zero_shot(features: Tensor, mask: Tensor) -> Tensor:
    """Embed clips without training: the mean over their steps, each of unit length.

    Parameters
    ----------
    features : Tensor
        (C, T, d) float.
    mask : Tensor
        (C, T) bool, true where a step is real.

    Returns
    -------
    Tensor
        (C, d) float32 at least, also under autocast; not of unit length. Zero for a clip without a step.
    """
    with torch.autocast(features.device.type, enabled=False):
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        return masked_mean(F.normalize(wide, dim=-1), mask)


def start_at_zero(layer: nn.Linear) -> None:
    """Set a layer to zero: a head that ends in it adds nothing until it has learned."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
