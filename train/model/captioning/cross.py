"""Captioning from the other clips of the batch: the paper's support-set bottleneck."""

from __future__ import annotations

from torch import Tensor

from supportset.train.model.support import Captioning, Support, log_softmax


def support(logits: Tensor, is_positive: Tensor, candidates: Tensor) -> Support:
    """Weigh all clips but the caption's by a softmax."""
    members = candidates & ~is_positive
    return Support(log_softmax(logits, members), members)


CAPTIONING = Captioning("captioning from the other clips of the batch", support, own=False)
