"""The card of a text feature set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from supportset.extract.pipeline.recipe import GIVEN, library_versions
from supportset.store.format.card import FeatureCard, Recipe

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextEncoder

_LIBRARIES = ("torch", "numpy", "transformers", "tokenizers", "open_clip_torch")


def make_text_recipe(encoder: TextEncoder, dtype: str) -> Recipe:
    """Return everything that determines the features of a text."""
    return Recipe(
        kind="text",
        backbone=encoder.name,
        weights=encoder.weights,
        weights_hash=encoder.weights_hash,
        transform={"tokenizer": encoder.tokenizer_json},
        sampling={"max_tokens": encoder.max_tokens},
        layer=encoder.layer,
        pooling=encoder.pooling,
        dim=encoder.dim,
        dtype=dtype,
    )


def make_text_card(recipe: Recipe, encoder: TextEncoder, device: str) -> FeatureCard:
    """Add what does not determine the features: the encoder's given name, versions, device kind, precision, date."""
    return FeatureCard(
        recipe,
        {
            GIVEN: encoder.given,
            "libraries": library_versions(_LIBRARIES),
            "device": device,
            "precision": encoder.precision,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
