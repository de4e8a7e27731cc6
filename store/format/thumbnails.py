"""Thumbnails of a feature set: small JPEGs of its clips' steps.

They are a set of their own in the folder of the feature set, so what writes, verifies, compacts and removes features
does so with them. The bytes of a JPEG are rows of fixed width, zeros behind its end, that all have the timestamps of
its step. Features do not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from supportset.store.errors import SupportsetError
from supportset.store.files import StorePath, store_path
from supportset.store.format.card import THUMBNAILS, Recipe, is_feature_set
from supportset.store.format.shard import Array

ROW_BYTES = 512  # of a JPEG of some 4 KB a tenth is padding and timestamps; wider and narrower rows waste more
_BEGIN, _END = b"\xff\xd8", b"\xff\xd9"  # of each JPEG


class Picture(NamedTuple):
    """A JPEG, and its step in seconds from the clip's start."""

    start_s: float
    end_s: float
    jpeg: bytes


def thumbnails_path(feature_set: str | StorePath) -> StorePath:
    """Return the folder of a feature set's thumbnails, whether there are any or not."""
    return store_path(feature_set) / THUMBNAILS


def has_thumbnails(feature_set: str | StorePath) -> bool:
    """Tell whether a feature set has thumbnails, possibly damaged ones."""
    return is_feature_set(thumbnails_path(feature_set))


def thumbnails_recipe(sampling: dict[str, Any], transform: dict[str, Any]) -> Recipe:
    """Return the recipe of thumbnails.

    Parameters
    ----------
    sampling : dict
        Of the feature set: thumbnails show its steps.
    transform : dict
        Size and quality of the pictures.
    """
    return Recipe(
        kind=THUMBNAILS,
        backbone="none",
        weights="none",
        weights_hash="none",
        transform=transform,
        sampling=sampling,
        layer="jpeg",
        pooling="none",
        dim=ROW_BYTES,
        dtype="uint8",
    )


def to_rows(pictures: Sequence[Picture]) -> tuple[Array, Array]:
    """Lay out the pictures of a clip as rows.

    Of pictures of the same step only the first is taken.

    Returns
    -------
    values : (T, 512) uint8
    timestamps : (T, 2) float64 seconds

    Raises
    ------
    ValueError
        No picture, or one that is not a JPEG.
    """
    if not pictures:
        raise ValueError("a clip without a picture")
    distinct = list({(each.start_s, each.end_s): each for each in reversed(pictures)}.values())[::-1]
    if any(not each.jpeg.startswith(_BEGIN) or not each.jpeg.endswith(_END) for each in distinct):
        raise ValueError("a picture that is not a JPEG")
    padded = [each.jpeg + bytes(-len(each.jpeg) % ROW_BYTES) for each in distinct]
    counts = [len(each) // ROW_BYTES for each in padded]
    times = np.array([(each.start_s, each.end_s) for each in distinct], np.float64)
    return np.frombuffer(b"".join(padded), np.uint8).reshape(-1, ROW_BYTES), np.repeat(times, counts, axis=0)


def first_rows(timestamps: Array) -> Array:
    """Return the first row of each of the N pictures of a clip, and the number of all rows: (N + 1,) int64."""
    new = np.any(timestamps[1:] != timestamps[:-1], axis=1)
    return np.concatenate([[0], np.flatnonzero(new) + 1, [len(timestamps)]]) if len(timestamps) else np.zeros(1, int)


def to_jpeg(values: Array, where: object) -> bytes:
    """Return the JPEG of some rows without the zeros behind its end.

    Raises
    ------
    SupportsetError
        The rows are no JPEG; ``where`` names them in the message.
    """
    jpeg = values.tobytes().rstrip(b"\0")
    if not jpeg.startswith(_BEGIN) or not jpeg.endswith(_END):
        raise SupportsetError(f"{where}: is not a JPEG: make the thumbnails anew with `store thumbnails`")
    return jpeg
