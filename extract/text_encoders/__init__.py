"""Frozen text encoders by name, behind one interface."""

from extract.text_encoders.registry import load_recorded, load_text_encoder

__all__ = ["load_recorded", "load_text_encoder"]
