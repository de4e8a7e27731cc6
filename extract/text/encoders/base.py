"""What every text encoder offers: tokens of texts, and one vector a token, or one a text.

A family is a small subclass that says how to build its model, its tokenizer, and which output is the feature. Padding,
pooling, precision and hashing are here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from supportset.extract.backbones.base import PRECISIONS
from supportset.extract.backbones.hashing import hash_state
from supportset.store.errors import UsageError

Pooling = Literal["none", "mean", "first"]
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "first")
DEFAULT_MAX_TOKENS = 32  # as data.max_words of the training's configuration


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, special ones included.

    Attributes
    ----------
    ids : at most ``max_tokens``; empty where the tokenizer finds none
    whole : how many there were before the text was cut
    """

    ids: list[int]
    whole: int


class TextEncoder(ABC):
    """A frozen text encoder: texts in, float32 vectors out, one a token or one a text.

    Parameters
    ----------
    model : nn.Module
        The parameters that decide the features and nothing else (no decoder, no visual tower, no pooler): it is hashed.
    name : str
        Full name without folders, so that equal weights have one name on all machines.
    weights : str
        The weights' own name: a hub name, a tag, or the name of a local file or folder.
    dim : int
        D, length of a vector.
    layer, pooling : str
        Which output is taken, and how it became what is stored: ``none`` leaves one vector a token.
    tokenizer : dict
        What decides the tokens, as JSON: its hash, which special tokens are added, where a long text is cut.
    max_tokens : int
        Longer texts are cut to so many tokens, special ones included.
    pad_id : int
        Token that fills the end of shorter texts; the mask hides it.
    given : str, optional
        The name as the user gave it, paths included.

    Notes
    -----
    A text's vectors do not depend on the others of its batch but by rounding: in float32 they differ by less than
    1e-5 of the largest value (tested on T5, BERT and MiniLM).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        weights: str,
        dim: int,
        layer: str,
        pooling: str,
        tokenizer: dict[str, Any],
        max_tokens: int,
        pad_id: int,
        given: str | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name, self.weights, self.given = name, weights, given or name
        self.dim, self.layer, self.pooling = dim, layer, pooling
        self.tokenizer_json, self.max_tokens, self.pad_id = tokenizer, max_tokens, pad_id
        self._device, self._precision = torch.device("cpu"), "fp32"
        self._hash: str | None = None

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, cut to ``max_tokens``; none for a text without a token of its own."""

    @abstractmethod
    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map (N, L) long ids and bool mask to one vector a token (N, L, dim), or one a text (N, dim)."""

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

    @property
    def pooled(self) -> bool:
        """Whether a text gives one vector, not one a token."""
        return self.pooling != "none"

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

    @torch.inference_mode()
    def forward(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Compute the features of a batch of tokenised texts.

        Parameters
        ----------
        sequences : token ids of N texts, none of them empty; little is padded where they are of like length

        Returns
        -------
        (ΣT, dim) float32
            On the encoder's device, the texts one after the other: T is a text's number of tokens, or 1 where pooled.
        """
        if not sequences:
            return torch.empty((0, self.dim), device=self._device)
        ids, mask = (part.to(self._device) for part in _pad(sequences, self.pad_id))
        short = self._precision != "fp32"
        with torch.autocast(self._device.type, dtype=PRECISIONS[self._precision] if short else None, enabled=short):
            vectors = self.encode(ids, mask)
        vectors = vectors.float()
        if vectors.ndim == 3:
            vectors = _pool(vectors, mask, self.pooling)
        if vectors.shape[-1] != self.dim:
            raise ValueError(f"{self.name} gave features of length {vectors.shape[-1]}, not {self.dim}")
        return vectors


def _pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Sequences as (N, L) long ids, padded at the end, and their (N, L) bool mask."""
    lengths = np.array([len(sequence) for sequence in sequences])
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _pool(vectors: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """From (N, L, D) to (ΣT, D), or to (N, D); what stands in padding is never looked at, be it NaN."""
    if pooling == "none":
        return vectors[mask]
    if pooling == "first":
        return vectors[:, 0]
    return vectors.masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True)
