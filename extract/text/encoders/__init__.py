"""Frozen text encoders by name, behind one interface."""

from supportset.extract.text.encoders.registry import TEXT_ENCODERS, live_features, load_recorded, load_text_encoder

__all__ = ["TEXT_ENCODERS", "live_features", "load_recorded", "load_text_encoder"]
