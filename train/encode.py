"""Embed clips and captions with a trained model, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from supportset.store.format.dataset import Caption
from supportset.store.read.aligned import AlignedFeatures
from supportset.train.data.cached_text import CachedText, TokenFeatures
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.data.training_data import TokenTable

if TYPE_CHECKING:
    from supportset.train.model.model import SupportSetModel

_BLOCK = 8192  # clips of a gallery in memory at once


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without gradients; restore training mode afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference_mode: what a model caches here may meet autograd later
            yield
    finally:
        model.train(training)


def encode_clips(model: SupportSetModel, features: ClipFeatures, batch_size: int = 256) -> NDArray[np.float32]:
    """Embed clips that are in memory: (N, d), in their order."""
    device = next(model.parameters()).device
    embeddings: list[NDArray[np.float32]] = []
    order = np.argsort(features.lengths, kind="stable")  # similar lengths together: little padding
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            values, mask = features.gather(order[start : start + batch_size])
            codes = model.encode_video(values.to(device).float(), mask.to(device))
            embeddings.append(codes.embedding.float().cpu().numpy())
    return _in_order(embeddings, order)


def encode_gallery(
    model: SupportSetModel, source: AlignedFeatures, clip_ids: Sequence[str], max_steps: int
) -> NDArray[np.float32]:
    """Embed any number of stored clips: (N, d); reads them block by block."""
    blocks = [
        encode_clips(model, ClipFeatures(source, clip_ids[start : start + _BLOCK], max_steps))
        for start in range(0, len(clip_ids), _BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)


def encode_tokens(
    model: SupportSetModel, tokens: TokenTable | TokenFeatures, batch_size: int = 256
) -> NDArray[np.float32]:
    """Embed captions by their tokens or stored features: (N, d), in their order."""
    device = next(model.parameters()).device
    embeddings: list[NDArray[np.float32]] = []
    order = np.argsort(tokens.lengths, kind="stable")
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            ids, mask = tokens.pad(order[start : start + batch_size])
            embeddings.append(model.encode_text(ids.to(device), mask.to(device)).float().cpu().numpy())
    return _in_order(embeddings, order)


def tokenize(model: SupportSetModel, texts: Sequence[str], max_tokens: int) -> TokenTable:
    """Tokenise captions for the model's text encoder."""
    return TokenTable(model.tokenize_text(list(texts), max_tokens), model.text_pad_id)


def read_text(
    model: SupportSetModel, captions: Sequence[Caption], max_tokens: int, cached: CachedText | None = None
) -> TokenTable | TokenFeatures:
    """Prepare captions for the model's text encoder.

    Parameters
    ----------
    model : SupportSetModel
        Reads tokens or text features.
    captions : sequence of Caption
        In the order wanted.
    max_tokens : int
        Of a tokenised caption; stored features are as long as they are.
    cached : CachedText, optional
        The text features of the model's recipe.

    Raises
    ------
    UsageError
        A caption without text features.
    """
    if model.text_recipe is None:
        return tokenize(model, [caption.text for caption in captions], max_tokens)
    if cached is None:
        raise ValueError("the model reads text features: give them")
    return cached.read(captions)


def _in_order(embeddings: list[NDArray[np.float32]], order: NDArray[np.int64]) -> NDArray[np.float32]:
    if not embeddings:
        return np.zeros((0, 0), np.float32)
    result = np.empty((len(order), embeddings[0].shape[1]), np.float32)
    result[order] = np.concatenate(embeddings)
    return result
