"""One hash for a model's parameters, whatever file or format they came from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xxhash


def hash_state(state: Mapping[str, torch.Tensor]) -> str:
    """Hash a state dict: xxh3-128 over name, dtype, shape and bytes of its entries, sorted by name.

    Parameters
    ----------
    state : mapping of str to Tensor
        On any device, in any memory format: only the values count.

    Returns
    -------
    str
        ``"xxh3-128:<32 hex digits>"``.
    """
    digest = xxhash.xxh3_128()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return f"xxh3-128:{digest.hexdigest()}"
