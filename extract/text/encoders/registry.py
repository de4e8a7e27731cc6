"""Text encoders by name, and the one that a stored feature set was made with.

``NAME`` is a hub name, a local folder or a preset; ``NAME@FOLDER`` reads the files from FOLDER; other families have
their name in front, as ``open_clip:ARCH/WEIGHTS``. Torch is imported only when an encoder is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supportset.extract.backbones.registry import Registry
from supportset.store.errors import UsageError
from supportset.store.format.card import Recipe

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextEncoder

_BATCH = 64  # texts of one forward where the features are not stored

TEXT_ENCODERS = Registry(
    "text encoder",
    "supportset.text_encoders",
    "supportset.extract.text.encoders.families",
    "open_clip:ARCH/WEIGHTS",
    "hf",
)


def load_text_encoder(name: str, max_tokens: int | None = None, pooling: str | None = None) -> TextEncoder:
    """Load a frozen text encoder by name, on the CPU in float32.

    Parameters
    ----------
    name : str
        A hub name, a local folder, a preset (``minilm``, ``t5-small``, ``t5-base``), any of these with ``hf:`` in
        front, ``NAME@FOLDER``, ``open_clip:ARCH/WEIGHTS``, or a name of a plugin.
    max_tokens : int, optional
        Longer texts are cut to so many tokens, special ones included. Default: 32; for open_clip, the tower's length.
    pooling : {"none", "mean", "first"}, optional
        One vector a token (default), the mean over all tokens, or the first token's vector. An open_clip tower gives
        its text embedding and takes no pooling.

    Raises
    ------
    UsageError
        If there is no such encoder, or its weights cannot be found or read.
    """
    parsed = TEXT_ENCODERS.parse(name)
    encoder: TextEncoder = TEXT_ENCODERS.loader(parsed.family)(parsed.model, parsed.path, max_tokens, pooling)
    encoder.given = name
    return encoder


def load_recorded(recipe: Recipe, given: str | None = None) -> TextEncoder:
    """Load the encoder that a text feature set was made with, and check that it is the same.

    Parameters
    ----------
    recipe : Recipe
        Of the feature set.
    given : str, optional
        Its name or path on this machine; default: the name in the recipe.

    Raises
    ------
    UsageError
        If it cannot be loaded, or its weights, its tokenizer or anything else that decides the features differ.
    """
    tokens = recipe.sampling.get("max_tokens")
    if recipe.backbone.startswith("imported:") or not isinstance(tokens, int):
        raise UsageError(
            f"the text features {recipe.folder} were imported: no encoder is known that gives the features of new text"
        )
    name = given or recipe.backbone
    try:
        encoder = load_text_encoder(name, tokens, recipe.pooling)
    except UsageError as error:
        raise UsageError(f"{error}; it made the text features {recipe.folder}, name its path with --encoder") from None
    found: dict[str, Any] = {
        "weights": encoder.weights_hash,
        "tokenizer": encoder.tokenizer_json,
        "layer": encoder.layer,
        "pooling": encoder.pooling,
        "max_tokens": encoder.max_tokens,
    }
    wanted: dict[str, Any] = {
        "weights": recipe.weights_hash,
        "tokenizer": recipe.transform.get("tokenizer"),
        "layer": recipe.layer,
        "pooling": recipe.pooling,
        "max_tokens": tokens,
    }
    if differing := [key for key in found if found[key] != wanted[key]]:
        raise UsageError(
            f"encoder {name!r} is not the one that made the text features {recipe.folder}: its {differing[0]} is "
            f"{found[differing[0]]}, not {wanted[differing[0]]}; name the one that did with --encoder"
        )
    return encoder


def live_features(encoder: TextEncoder) -> Callable[[Sequence[str]], list[NDArray[np.float32]]]:
    """Return a function that computes the features of texts that are in no store.

    Returns
    -------
    function
        From N texts to a list of N arrays (T, D) float32. T is what
        :func:`supportset.extract.text.run.extract_text` would store; 0 for a text without a token.
    """

    def read(texts: Sequence[str]) -> list[NDArray[np.float32]]:
        sequences = [tokens.ids for tokens in encoder.tokenize(texts)]
        found = [np.empty((0, encoder.dim), np.float32)] * len(sequences)
        order = sorted((i for i, ids in enumerate(sequences) if ids), key=lambda i: len(sequences[i]))
        for start in range(0, len(order), _BATCH):  # similar lengths together: little padding
            part = order[start : start + _BATCH]
            values = encoder.forward([sequences[i] for i in part]).cpu().numpy()
            steps = [1 if encoder.pooled else len(sequences[i]) for i in part]
            for i, each in zip(part, np.split(values, np.cumsum(steps)[:-1]), strict=True):
                found[i] = each
        return found

    return read
