"""Frozen text encoders by name, behind one interface."""

from supportset.extract.text.encoders.registry import TEXT_ENCODERS, live_features, load_recorded, load_text_encoder
from supportset.extract.text.encoders.towers import load_named, load_tower, load_tower_of

__all__ = [
    "TEXT_ENCODERS",
    "live_features",
    "load_named",
    "load_recorded",
    "load_text_encoder",
    "load_tower",
    "load_tower_of",
]
