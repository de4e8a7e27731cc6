"""Captioning with the mean of the `identity` and the `full` weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from supportset.train.model.captioning import full
from supportset.train.model.support import Captioning, Support


def support(logits: Tensor, is_positive: Tensor, candidates: Tensor) -> Support:
    """Average the weights: (1 + w) / 2 for the caption's clip, w / 2 for the others."""
    log_w, members = full.support(logits, is_positive, candidates)
    return Support(torch.where(is_positive, F.softplus(log_w), log_w) - math.log(2.0), members)


CAPTIONING = Captioning(
    "captioning from the mean of the own clip's weight and the whole batch's", support, learns_own=True
)
