"""Embeddings of clips that are kept from one search to the next: beside a run, or in the user's cache."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from supportset.evaluate.ranks import unit_rows
from supportset.search.parts import read_parts
from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder, hash_parts

if TYPE_CHECKING:
    from supportset.search.retriever import Clips, Retriever
    from supportset.store.read.aligned import AlignedFeatures

_KEPT = ("embeddings", "background")
_BACKGROUND = 256  # clips whose parts say what unrelated footage scores


def mean_part(retriever: Retriever, features: AlignedFeatures) -> NDArray[np.float32]:
    """Mean embedding of parts, (d,), of clips spread over the library: with a query, what unrelated footage scores."""
    step = -(-len(features) // _BACKGROUND)
    vectors = unit_rows(read_parts(retriever, features, features.clip_ids[::step]).vectors)
    mean: NDArray[np.float32] = np.nan_to_num(vectors).mean(axis=0).astype(np.float32)
    return mean


def clip_embeddings(retriever: Retriever, clips: Clips, key: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read what an earlier search kept, or compute and keep it: embeddings of clips (N, d), and `mean_part`."""
    features = clips.features
    kept = _read_kept(clips.kept, key)
    if kept is not None:
        return kept
    found = retriever.encode_stored(features, features.clip_ids), mean_part(retriever, features)
    with suppress(SupportsetError):  # a folder that cannot be written: the next search computes them again
        about = {"key": key, "content": hash_parts([each.tobytes() for each in found])}
        content = save(dict(zip(_KEPT, found, strict=True)), metadata=about)
        LocalFolder(clips.kept.parent).put({clips.kept.name: [content]})
    return found


def _read_kept(path: Path, key: str) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Read the embeddings of an earlier search, if they are of exactly this model and these features."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("key") != key:
                return None
            embeddings, background = (file.get_tensor(name) for name in _KEPT)
            found = hash_parts([embeddings.tobytes(), background.tobytes()])
            return (embeddings, background) if about.get("content") == found else None
    except (SafetensorError, OSError):
        return None  # damaged: computed again
