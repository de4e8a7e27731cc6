"""Names of text encoders, and how a name is read.

``NAME`` (a hub name, a local folder or a preset), ``NAME@FOLDER`` with the files read from FOLDER, ``open_clip:...`` as
for backbones. Torch is imported only when an encoder is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supportset.store.errors import UsageError
from supportset.store.format.card import Recipe

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextEncoder

PRESETS = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2",
    "t5-small": "google-t5/t5-small",
    "t5-base": "google-t5/t5-base",
}
_FAMILIES = ("hf", "open_clip")


def load_text_encoder(name: str, max_tokens: int | None = None, pooling: str | None = None) -> TextEncoder:
    """Load a frozen text encoder by name, on the CPU in float32.

    Parameters
    ----------
    name : a hub name, a local folder, a preset (``minilm``, ``t5-small``, ``t5-base``), any of these with ``hf:`` in
        front, ``NAME@FOLDER``, or ``open_clip:ARCH/WEIGHTS``
    max_tokens : longer texts are cut to so many tokens, special ones included; default: 32, in open_clip the tower's
    pooling : ``none``, one vector a token, the default; ``mean`` of all tokens; the ``first`` token's. An open_clip
        tower gives its embedding, and takes none of these

    Raises
    ------
    UsageError
        If there is no such encoder, or its weights cannot be had or read: one line that says what to do.
    """
    family, model, path = _parse(name)
    encoder: TextEncoder = import_module(f"supportset.extract.text.encoders.{family}").load(
        model, path, max_tokens, pooling
    )
    encoder.given = name
    return encoder


def load_recorded(recipe: Recipe, given: str | None = None) -> TextEncoder:
    """Load the encoder that a text feature set was made with, and make sure that it is the same.

    Parameters
    ----------
    recipe : of the feature set
    given : where it is to be had on this machine, by default under the name in the recipe

    Raises
    ------
    UsageError
        It cannot be loaded, or its weights, its tokenizer or anything else that decides the features differ.
    """
    tokens = recipe.sampling.get("max_tokens")
    if recipe.backbone.startswith("imported:") or not isinstance(tokens, int):
        raise UsageError(
            f"the text features {recipe.folder} were imported, so no encoder is known that makes the like of new text"
        )
    name = given or recipe.backbone
    own = recipe.backbone.startswith("open_clip:")  # its length and pooling are no one's to choose
    try:
        encoder = load_text_encoder(name, None if own else tokens, None if own else recipe.pooling)
    except UsageError as error:
        raise UsageError(
            f"{error}; it made the text features {recipe.folder}, and --encoder says where it is"
        ) from None
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
            f"{found[differing[0]]}, not {wanted[differing[0]]}; name the right one with --encoder"
        )
    return encoder


def live_features(encoder: TextEncoder) -> Callable[[Sequence[str]], list[NDArray[np.float32]]]:
    """A function that gives the features of texts that are in no store.

    Returns
    -------
    function (texts) -> list of (T, D) float32
        T as :func:`supportset.extract.text.run.extract_text` would store it; 0 for a text without a token.
    """

    def read(texts: Sequence[str]) -> list[NDArray[np.float32]]:
        tokens = encoder.tokenize(texts)
        steps = [min(1, len(each.ids)) if encoder.pooled else len(each.ids) for each in tokens]
        values: NDArray[np.float32] = encoder.forward([each.ids for each in tokens if each.ids]).cpu().numpy()
        return np.split(values, np.cumsum(steps)[:-1])

    return read


def _parse(name: str) -> tuple[str, str, Path | None]:
    """Take a name apart: (family, model, path)."""
    base, at, given = name.partition("@")
    base = PRESETS.get(base, base)
    family, colon, model = base.partition(":")
    if not colon or Path(base).expanduser().is_dir():
        family, model = "hf", base
    elif family not in _FAMILIES:
        raise UsageError(
            f"encoder {name!r}: {family!r} is no family of text encoders: give a hub name, a folder, one of "
            f"{', '.join(PRESETS)}, or open_clip:ARCH/WEIGHTS"
        )
    path = Path(given).expanduser() if at else None
    if path is not None and (not given or not path.exists()):
        raise UsageError(
            f"encoder {name!r}: there is no file or folder {given!r}: give the path of its weights after the @"
        )
    return family, PRESETS.get(model, model), path
