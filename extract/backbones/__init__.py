"""Frozen visual backbones by name, behind one interface.

Nothing here imports torch at the top: decode workers unpickle ``transforms.FrameTransform``
through this package, and must stay small.
"""

from supportset.extract.backbones.registry import DEFAULT_BACKBONE, PRESETS, describe_backbones, load_backbone

__all__ = ["DEFAULT_BACKBONE", "PRESETS", "describe_backbones", "load_backbone"]
