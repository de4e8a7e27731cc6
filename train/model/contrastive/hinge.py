"""Hinge triplet loss over the hardest negative, or the sum over all (``loss.negatives``)."""

from __future__ import annotations

from torch import Tensor

from supportset.train.config import LossConfig
from supportset.train.model.losses import ContrastiveLoss


def contrast(positive: Tensor, candidates: Tensor, is_negative: Tensor, config: LossConfig) -> Tensor:
    """Compute max_j [α − s_ii + s_ij]₊ over the negatives j, or its sum over them."""
    violations = (config.margin - positive + candidates).clamp(min=0.0).masked_fill(~is_negative, 0.0)
    # amax shares the gradient among equals, so it does not depend on the order of the batch.
    return violations.amax(1) if config.negatives == "hardest" else violations.sum(1)


LOSS = ContrastiveLoss(
    "hinge, {negatives} negatives",
    contrast,
    keys=("margin", "negatives", "warmup", "warmup_epochs", "temperature"),  # the last: of a warm-up with InfoNCE
)
