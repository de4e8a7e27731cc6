"""Embeddings of captions that ``extract-text --encoder tower:FEATURES`` stored: they need no forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supportset.store.errors import UsageError
from supportset.store.format.card import STORED_DTYPES, is_feature_set
from supportset.store.format.dataset import Caption
from supportset.store.read.feature_set import FeatureSet

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextTower


def stored_embeddings(
    tower: TextTower, visual: FeatureSet, captions: Sequence[Caption]
) -> tuple[NDArray[np.float32], str] | None:
    """Read the tower's embeddings of captions from beside its visual features.

    Returns
    -------
    vectors : (N, d) float32
        Not normalised; zeros for a caption without a token.
    folder : str
        Name of the text feature set, the one in float32 if there are two.
    None
        The store does not have those of all captions, made of their present text.

    Raises
    ------
    SupportsetError
        Features that do not match their checksums.
    """
    from supportset.extract.text.recipe import make_text_recipe
    from supportset.train.data.cached_text import CachedText

    for dtype in sorted(STORED_DTYPES, reverse=True):
        recipe = make_text_recipe(tower, dtype)
        path = visual.path.parent / recipe.folder
        if not is_feature_set(path):
            continue
        try:
            stored = CachedText(FeatureSet.open(path, check=True), "", "").read(captions)
        except UsageError:
            continue  # not of all captions
        vectors = np.zeros((len(captions), tower.dim), np.float32)
        vectors[stored.lengths > 0] = stored.values[:-1]
        return vectors, recipe.folder
    return None
