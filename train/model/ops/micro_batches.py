"""A batch in parts, so that only one part's activations are in memory, while the batch stays whole for the loss.

Each part is computed once without keeping what the backward pass needs, and once more when that comes to it. What a
part gives is kept, so the contrastive loss and the support sets see the whole batch, as they would without parts:
gradients are those of the whole batch. It costs one more forward pass. Batch normalisation would see one part at a
time, and is refused by the configuration.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(function: Callable[..., tuple[Tensor, ...]], chunks: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Apply a function of tensors to parts of their rows.

    Parameters
    ----------
    function : gives tensors with one row for each row of its inputs, none of which depends on other rows
    chunks : parts; 1, or no gradients wanted, is one plain call
    inputs : tensors of the same number of rows
    """
    if chunks == 1 or not torch.is_grad_enabled():
        return function(*inputs)
    parts = zip(*(each.chunk(chunks) for each in inputs), strict=True)
    found = [checkpoint(function, *part, use_reentrant=False) for part in parts]
    return tuple(torch.cat(outputs) for outputs in zip(*found, strict=True))
