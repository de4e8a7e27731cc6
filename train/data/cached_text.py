"""Text features of captions from the store, which a frozen encoder wrote before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supportset._program import program
from supportset.store.errors import UsageError
from supportset.store.files import StorePath
from supportset.store.files.memory import copy_rows, empty_aligned
from supportset.store.format.card import Recipe
from supportset.store.format.dataset import Caption
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.padding import Layout
from supportset.train.data.packed_captions import PackedCaptions

_BLOCK = 4096  # captions read at once
_OK, _EMPTY = "ok", "empty"
_TEXTS = "captions.parquet"  # where extract-text has its sources from; imported sets name files


class TokenFeatures(PackedCaptions):
    """Token features of captions in one array, in place of a `TokenTable`.

    Parameters
    ----------
    values : (ΣT + 1, h)
        Of any float dtype, the captions one after the other; the last row is zeros, for padding.
    lengths : (N,) int64
        T of each caption; 0 for one without a word.
    """

    def __init__(self, values: NDArray[np.floating], lengths: NDArray[np.int64]) -> None:
        super().__init__(lengths)
        self.values = values

    def batches(self, layout: Layout) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a layout: (N, L, h) and (N, L), each one indexed copy."""
        for places, real in layout:
            out = copy_rows(self.values, places, empty_aligned((len(places), self.values.shape[1]), self.values.dtype))
            yield torch.from_numpy(out.reshape(*real.shape, -1)), torch.from_numpy(real)

    @classmethod
    def of(cls, features: Sequence[NDArray[np.floating]], dim: int) -> TokenFeatures:
        """Pack arrays (T, h) of captions."""
        lengths = np.array([len(each) for each in features], np.int64)
        return cls(np.concatenate([*features, np.zeros((1, dim), np.float32)]), lengths)


class CachedText:
    """The text feature set of a dataset that a run reads.

    Parameters
    ----------
    features : FeatureSet
        Of kind ``text``.
    dataset : str
        Its name, for messages.
    store : str or StorePath
        Folder of the store, for messages.
    """

    def __init__(self, features: FeatureSet, dataset: str, store: str | StorePath) -> None:
        self._features, self._dataset, self._store = features, dataset, store
        rows = features.rows().select(["clip_id", "status", "source_path", "source_hash", "checksum"]).to_pydict()
        columns = (rows[name] for name in ("status", "source_path", "source_hash", "checksum"))
        self._known = dict(zip(rows["clip_id"], zip(*columns, strict=True), strict=True))

    @property
    def recipe(self) -> Recipe:
        """Recipe of the features."""
        return self._features.card.recipe

    def record(self) -> dict[str, Any]:
        """Describe the set for ``data.json``: its recipe, and the name the encoder was given by."""
        recipe, given = self.recipe, self._features.card.provenance.get("backbone")
        entry = {"folder": recipe.folder, "hash": recipe.hash, "recipe": recipe.to_json()}
        return entry | {"encoder": given if isinstance(given, str) else None}

    def check(self, captions: Sequence[Caption]) -> None:
        """Check that the set has features of these captions, made of their present text.

        Raises
        ------
        UsageError
            Names the captions, and the command that makes their features.
        """
        absent, stale = [], []
        for caption in captions:
            status, path, of, _ = self._known.get(caption.caption_id, (None, None, None, None))
            if not caption.text.strip():
                continue
            if path == _TEXTS and of != caption.hash:
                stale.append(caption.caption_id)
            elif status not in (_OK, _EMPTY):
                absent.append(caption.caption_id if status is None else f"{caption.caption_id}: {status}")
        for names, what in ((absent, "no text features"), (stale, "text features of another text")):
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                raise UsageError(
                    f"{self._features.path}: {len(names)} of {len(captions)} captions have {what} ({shown}); "
                    f"make them with: {extraction_command(self.recipe, self._dataset, self._store)}"
                )

    def read(self, captions: Sequence[Caption]) -> TokenFeatures:
        """Load the features of captions; those of a blank caption are empty.

        Raises
        ------
        UsageError
            As `check`.
        SupportsetError
            Features that do not match their checksums.
        """
        self.check(captions)
        has = np.array([self._has(caption) for caption in captions], bool)
        found = [captions[i].caption_id for i in np.flatnonzero(has).tolist()]
        rows, lengths = self._features.find(found), np.zeros(len(captions), np.int64)
        lengths[has] = self._features.lengths(found)
        packed = empty_aligned((int(lengths.sum()) + 1, self._features.dim), self._features.dtype)
        packed[-1] = 0
        start = 0
        for first in range(0, len(rows), _BLOCK):
            block, _ = self._features.read_rows(rows[first : first + _BLOCK], packed[start:])
            start += len(block)
        return TokenFeatures(packed, lengths)

    def checksums(self, captions: Sequence[Caption]) -> list[str]:
        """Checksum of each caption's stored bytes; empty for those without."""
        return [str(self._known[each.caption_id][3]) if self._has(each) else "" for each in captions]

    def _has(self, caption: Caption) -> bool:
        return bool(caption.text.strip()) and self._known[caption.caption_id][0] == _OK


def extraction_command(recipe: Recipe, dataset: str, store: str | StorePath) -> str:
    """The command that makes text features of a recipe."""
    words = [program(), "extract-text", dataset, "--encoder", recipe.backbone.removeprefix("hf:")]
    if recipe.pooling in ("none", "mean", "first"):  # a text tower has its own length and pooling
        words += ["--max-tokens", str(recipe.sampling.get("max_tokens")), "--pooling", recipe.pooling]
    return " ".join([*words, "--dtype", recipe.dtype, "--store", str(store)])
