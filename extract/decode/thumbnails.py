"""Thumbnails: small JPEGs of the frames that are decoded anyway."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 160, 240  # pixels at most; a film on its side is 135 x 240
QUALITY = 75
MOST = 60  # of a clip, unless the user gives another number: some 240 KB
_FINE = 2  # at least so many pixels a pixel of the thumbnail, in each direction, are read of a large picture


def transform_json() -> dict[str, Any]:
    """Describe size and quality for the card."""
    return {"width": WIDTH, "height": HEIGHT, "quality": QUALITY}


def encode(picture: np.ndarray) -> bytes:
    """Shrink a picture to at most 160 x 240 pixels, with its aspect, and encode it as JPEG.

    Of a large picture only every n-th pixel is read: all of them take several times as long, and look alike.

    Parameters
    ----------
    picture : (H, W, 3) uint8
        RGB; not changed.

    Returns
    -------
    bytes
        Empty where the picture cannot be encoded: features do not depend on thumbnails.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, WIDTH / width, HEIGHT / height)
    skip = max(1, int(1 / (scale * _FINE)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    try:
        image = Image.fromarray(np.ascontiguousarray(picture[::skip, ::skip]))
        file = io.BytesIO()
        image.resize(size, Image.Resampling.BOX, reducing_gap=1.0).save(file, "JPEG", quality=QUALITY)
    except (OSError, ValueError):
        return b""
    return file.getvalue()


def blank(picture: np.ndarray) -> np.ndarray:
    """Stand in for the transform of a backbone where only thumbnails are made; return (1, 1, 3) zeros."""
    return np.zeros((1, 1, 3), np.uint8)


def spread(steps: int, most: int) -> list[int]:
    """Choose at most ``most`` of a clip's steps, evenly.

    Examples
    --------
    >>> spread(3, 60), spread(10, 3), spread(7, 0)
    ([0, 1, 2], [1, 5, 8], [])
    """
    count = min(steps, most)
    return [(2 * number + 1) * steps // (2 * count) for number in range(count)]
