"""What visual and text encoders share: a frozen model, its name, its hash, its device and its precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xxhash
from torch import nn

from supportset.store.errors import UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder:
    """A frozen model and what a feature card says of it.

    Parameters
    ----------
    model : nn.Module
        The parameters that decide the features and no others: they are hashed.
    name : str
        Full name without folders, so that equal weights have one name on all machines.
    weights : str
        The weights' own name: a pretrained tag, a hub name, or the name of a local file or folder.
    dim : int
        Length D of a feature vector.
    layer, pooling : str
        Which output is the feature, and how it is pooled.
    given : str, optional
        The name as the user gave it, paths included: it loads the same weights on this machine.

    Notes
    -----
    Parameters always stay in float32. With ``bf16`` or ``fp16`` the forward runs under ``torch.autocast``: matrix
    products and convolutions in the short type, normalisations and softmax in float32.
    """

    def __init__(
        self, model: nn.Module, *, name: str, weights: str, dim: int, layer: str, pooling: str, given: str | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name, self.weights, self.given = name, weights, given or name
        self.dim, self.layer, self.pooling = dim, layer, pooling
        self._device, self._precision = torch.device("cpu"), "fp32"
        self._hash: str | None = None

    @property
    def weights_hash(self) -> str:
        """Content hash of the parameters, ``xxh3-128:<hex>`` (computed once)."""
        if self._hash is None:
            self._hash = hash_state(self.model.state_dict())
        return self._hash

    @property
    def device(self) -> torch.device:
        """Where the forward runs."""
        return self._device

    @property
    def precision(self) -> str:
        """Precision of the forward: ``fp32``, ``bf16`` or ``fp16``."""
        return self._precision

    def to(self, device: torch.device | str, precision: str = "fp32") -> None:
        """Move the model to ``device`` and choose the precision of the forward.

        Raises
        ------
        UsageError
            If the precision is unknown.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r} is unknown: choose one of {', '.join(PRECISIONS)}")
        self._device, self._precision = torch.device(device), precision
        self.model.to(self._device)

    def _autocast(self) -> torch.autocast:
        short = self._precision != "fp32"
        return torch.autocast(self._device.type, dtype=PRECISIONS[self._precision] if short else None, enabled=short)


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
