"""Small feature sets for the store's tests, and a naive model of what they must read back as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter

FORMATS = ("zarr", "hdf5")
DIM = 6

Clip = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # values (T, DIM) float16, timestamps (T, 2)


def recipe(**changes: Any) -> Recipe:
    """A recipe, with some fields changed."""
    fields: dict[str, Any] = {
        "kind": "video",
        "backbone": "made_up:Net-S/blue",
        "weights": "blue",
        "weights_hash": "unknown",
        "transform": {"resize": 32, "mean": [0.5, 0.25, 0.125]},
        "sampling": {"fps": 1.0, "max_steps": 64},
        "layer": "pooled",
        "pooling": "global average",
        "dim": DIM,
        "dtype": "float16",
    }
    return Recipe(**{**fields, **changes})


def card(**changes: Any) -> FeatureCard:
    """A card, with some fields of the recipe changed."""
    return FeatureCard(recipe(**changes), {"device": "cpu"})


def clip(seed: int, steps: int | None = None) -> Clip:
    """A clip's features; the same for the same seed."""
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(1, 40)) if steps is None else steps
    start = np.arange(steps, dtype=np.float64)
    return rng.standard_normal((steps, DIM)).astype(np.float16), np.stack([start, start + 1.0], axis=1)


def clips(count: int, prefix: str = "clip") -> dict[str, Clip]:
    """Several clips by id."""
    return {f"{prefix}{i}": clip(i) for i in range(count)}


def write(path: Path, content: dict[str, Clip], **options: Any) -> None:
    """Write clips as one writer does."""
    with FeatureWriter(path, options.pop("card", card()), **options) as writer:
        for clip_id, (values, timestamps) in content.items():
            writer.add(clip_id, values, timestamps)


def assert_holds(path: Path, content: dict[str, Clip]) -> None:
    """The feature set reads back as exactly this content, bit for bit."""
    features = FeatureSet.open(path)
    assert sorted(features.clip_ids) == sorted(content)
    if content:
        ids = list(content)
        values, offsets = features.read(ids)
        times = features.read_timestamps(ids)
        for i, clip_id in enumerate(ids):
            rows = slice(offsets[i], offsets[i + 1])
            assert values[rows].tobytes() == content[clip_id][0].tobytes()
            assert times[rows].tobytes() == content[clip_id][1].tobytes()
