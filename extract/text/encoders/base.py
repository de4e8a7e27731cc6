"""What every text encoder offers: tokens of texts, and one vector a token, or one a text.

A family is a small subclass that builds its model and its tokenizer, and says which output is the feature. Padding,
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

from supportset.extract.backbones.encoder import Encoder
from supportset.store.errors import UsageError

Pooling = Literal["none", "mean", "first"]
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "first")
DEFAULT_MAX_TOKENS = 32  # as data.max_words of the training's configuration


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, special ones included.

    Attributes
    ----------
    ids : list of int
        At most ``max_tokens``; empty where the tokenizer finds no token in the text.
    length : int
        Number of tokens before the text was cut.
    """

    ids: list[int]
    length: int


class TextEncoder(Encoder, ABC):
    """A frozen text encoder: texts in, float32 vectors out, one a token or one a text.

    Parameters
    ----------
    model : nn.Module
        The parameters that decide the features and no others (no decoder, no visual tower, no pooler): they are hashed.
    tokenizer : dict
        What decides the tokens, as JSON: its hash, which special tokens are added, where a long text is cut.
    max_tokens : int
        Longer texts are cut to so many tokens, special ones included.
    pad_id : int
        Token that fills the end of shorter texts; the mask hides it.
    **options
        ``name``, ``weights``, ``dim``, ``layer``, ``pooling`` and ``given`` of :class:`Encoder`. With the pooling
        ``"none"`` a text gives one vector a token.

    Notes
    -----
    A text's vectors do not depend on the other texts of its batch, except for rounding: less than 1e-5 of the largest
    value in float32 (tested on T5, BERT and MiniLM).
    """

    def __init__(
        self, model: nn.Module, *, tokenizer: dict[str, Any], max_tokens: int, pad_id: int, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.tokenizer_json, self.max_tokens, self.pad_id = tokenizer, max_tokens, pad_id

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the token ids of each text, cut to ``max_tokens``; none for a text that has only special tokens."""

    @abstractmethod
    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map (N, L) long ids and bool mask to one vector a token (N, L, dim), or one a text (N, dim)."""

    @property
    def pooled(self) -> bool:
        """Whether a text gives one vector, not one a token."""
        return self.pooling != "none"

    @torch.inference_mode()
    def forward(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Compute the features of a batch of tokenised texts.

        Parameters
        ----------
        sequences : sequence of sequences of int
            Token ids of N texts, none of them empty. Texts of similar length need little padding.

        Returns
        -------
        Tensor
            (ΣT, dim) float32 on the encoder's device, text after text: T is a text's number of tokens, or 1 if pooled.
        """
        if not sequences:
            return torch.empty((0, self.dim), device=self._device)
        ids, mask = (part.to(self._device) for part in _pad(sequences, self.pad_id))
        with self._autocast():
            vectors = self.encode(ids, mask)
        vectors = vectors.float()
        if vectors.ndim == 3:
            vectors = _pool(vectors, mask, self.pooling)
        if vectors.shape[-1] != self.dim:
            raise ValueError(f"{self.name} gave features of length {vectors.shape[-1]}, not {self.dim}")
        return vectors


class TextTower(TextEncoder):
    """The text half of an encoder pair: one embedding a text, in the space of the visual half's.

    Parameters
    ----------
    model : nn.Module
        What the text embedding depends on: no visual half, no temperature.
    visual_hash : str
        Hash of the visual half of the same file, as the backbone of this name hashes its parameters.
    logit_scale : float or None
        What the pair multiplies cosines with (the exponential already taken); None where it has none.
    logit_bias : float or None
        What the pair adds to them afterwards (SigLIP).
    **options
        Of :class:`TextEncoder`, without ``layer`` and ``pooling``.
    """

    LAYER = "text embedding"
    POOLING = "the model's own, not normalised"

    def __init__(
        self,
        model: nn.Module,
        *,
        visual_hash: str,
        logit_scale: float | None = None,
        logit_bias: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, layer=self.LAYER, pooling=self.POOLING, **options)
        self.visual_hash, self.logit_scale, self.logit_bias = visual_hash, logit_scale, logit_bias

    def check_options(self, max_tokens: int | None, pooling: str | None) -> None:
        """Refuse another length or pooling than the tower's own.

        Raises
        ------
        UsageError
            One of them is given and differs.
        """
        if pooling not in (None, self.POOLING):
            raise UsageError(
                f"text encoder {self.name}: pooling {pooling!r}: it gives one embedding a text: leave it out"
            )
        if max_tokens not in (None, self.max_tokens):
            raise UsageError(
                f"text encoder {self.name}: max_tokens = {max_tokens}: it always reads {self.max_tokens}: leave it out"
            )


def _pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Sequences as (N, L) long ids, padded at the end, and their (N, L) bool mask."""
    lengths = np.array([len(sequence) for sequence in sequences])
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _pool(vectors: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """From (N, L, D) to (ΣT, D), or to (N, D); what is in the padding has no effect, even if it is NaN."""
    if pooling == "none":
        return vectors[mask]
    if pooling == "first":
        return vectors[:, 0]
    return vectors.masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True)
