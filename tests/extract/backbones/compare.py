"""One way to compare a backbone with the library it wraps: same raw frames, each through its own transform."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import torch

from supportset.extract.backbones.base import Backbone


def features(backbone: Backbone, steps: Sequence[np.ndarray]) -> torch.Tensor:
    """Take raw frames (H, W, 3), or windows (window, H, W, 3), the whole way that an extraction takes them."""
    transform = pickle.loads(pickle.dumps(backbone.frame_transform()))
    prepared = [transform(step) if step.ndim == 3 else np.stack([transform(frame) for frame in step]) for step in steps]
    return backbone.forward(torch.from_numpy(np.stack(prepared)))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, *, atol: float = 1e-5) -> None:
    """Equal to ``atol`` relative to the largest value, and not by being trivial."""
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    spread = theirs.std(0).max() if len(theirs) > 1 else theirs.std()
    assert spread > 1e-4 * theirs.abs().max(), "the frames must tell apart what is compared"
    scale = max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(ours, theirs, atol=atol * scale, rtol=0)
