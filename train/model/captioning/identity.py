"""Ordinary captioning: S_i = {i}."""

from __future__ import annotations

import torch
from torch import Tensor

from supportset.train.model.support import Captioning, Support


def support(logits: Tensor, is_positive: Tensor, candidates: Tensor) -> Support:
    """Give the caption's clip the weight 1."""
    return Support(torch.zeros_like(logits), is_positive)


CAPTIONING = Captioning("ordinary captioning of each clip", support, others=False, learns_own=True)
