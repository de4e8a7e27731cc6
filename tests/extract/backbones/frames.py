"""Frames to compare features on: noise over gradients, in sizes that make every rounding show."""

from __future__ import annotations

import numpy as np

SIZES = [(240, 320), (321, 241), (97, 143), (60, 45), (224, 224), (256, 256), (47, 300)]


def frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return an (H, W, 3) uint8 picture with edges, gradients and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack([rows * 255 / height, columns * 255 / width, 255 * ((rows // 9 + columns // 7) % 2)], axis=-1)
    return np.clip(picture + random.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)


def video(length: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (length, H, W, 3) uint8 frames that differ from each other."""
    return np.stack([np.roll(frame(height, width, seed + i), 3 * i, axis=1) for i in range(length)])
