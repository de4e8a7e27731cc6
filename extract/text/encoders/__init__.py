"""Frozen text encoders by name, behind one interface."""

from supportset.extract.text.encoders.registry import live_features, load_recorded, load_text_encoder

__all__ = ["live_features", "load_recorded", "load_text_encoder"]
