"""A batch in micro-batches: only one part's activations are in memory, and the loss still sees the whole batch.

Each part is computed once without what the backward pass needs, and again during the backward pass. Its output is
kept, so the contrastive loss and the support sets are those of the whole batch, and so are the gradients. The cost is
one more forward pass. Batch normalisation would see one part at a time, so the configuration refuses it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_micro_batches(function: Callable[..., tuple[Tensor, ...]], parts: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Apply a function of tensors to micro-batches of their rows.

    Parameters
    ----------
    function : callable
        Gives tensors with one row for each row of its inputs, none of which depends on other rows.
    parts : int
        How many micro-batches. With 1, or where no gradients are computed, it is one plain call.
    inputs : Tensor
        Tensors of the same number of rows.
    """
    if parts == 1 or not torch.is_grad_enabled():
        return function(*inputs)
    rows = zip(*(each.chunk(parts) for each in inputs), strict=True)
    found = [checkpoint(function, *part, use_reentrant=False) for part in rows]
    return tuple(torch.cat(outputs) for outputs in zip(*found, strict=True))
