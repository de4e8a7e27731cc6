"""Frozen visual backbones by name, behind one interface.

Nothing here imports torch at the top: decode workers unpickle ``transforms.FrameTransform`` through this package, and
must stay small.
"""

from supportset.extract.backbones.registry import BACKBONES, DEFAULT_BACKBONE, load_backbone

__all__ = ["BACKBONES", "DEFAULT_BACKBONE", "load_backbone"]
