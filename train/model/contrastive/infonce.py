"""InfoNCE: cross entropy of the softmax over the positive and all negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from supportset.train.config import LossConfig
from supportset.train.model.losses import ContrastiveLoss


def contrast(positive: Tensor, candidates: Tensor, is_negative: Tensor, config: LossConfig) -> Tensor:
    """Compute − log of the positive's share of the softmax."""
    temperature: Any = config.temperature  # a number, or what the model has learned so far: a scalar tensor
    others = (candidates / temperature).masked_fill(~is_negative, -torch.inf)  # masked last: no gradient reaches it
    logits = torch.cat([positive / temperature, others], dim=1)
    return -logits.log_softmax(1)[:, 0]


LOSS = ContrastiveLoss("InfoNCE", contrast, keys=("temperature",), mean_of_directions=True)
