"""A made-up library of clips in a real store, a retriever that reads it, and queries.

The vectors are clustered as embeddings of videos are. All are in a cone around one direction. Fields are apart from
each other, the topics of a field less, the clips of a topic less, the shots of a clip less, the steps of a shot least.
Fields and topics are of very different sizes (log-normal); a shot is five steps on average. A query is in another
cone, as texts do beside images, and points to one clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.retriever import Clips, Retriever
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.dataset import open_dataset, write_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter, Source

DATASET = "library"
STEPS = 20  # of a clip
CONE, FIELD, TOPIC, CLIP, SHOT, STEP, SAID = 1.0, 0.6, 0.5, 0.35, 0.4, 0.3, 0.9  # lengths of what vectors are sums of
_TOPIC_CLIPS, _FIELD_TOPICS = 30, 30  # on average
_SHOT_STEPS = 5
_POOL = 20_000  # vectors that shots and steps draw from: two of them, so that few are equal
_SHARD = 2_000


def recipe(dim: int) -> Recipe:
    """What the made-up encoder's features are."""
    return Recipe(
        kind="video", backbone="made-up:steps", weights="", weights_hash="xxh3-128:0", transform={},
        sampling={"fps": 1.0}, layer="pooled", pooling="none", dim=dim, dtype="float16",
    )  # fmt: skip


def write_library(root: Path, parts: int, queries: int, dim: int, seed: int = 0) -> None:
    """Write the store ``root / "features"`` with ``parts`` steps, and the queries (Q, d) float32."""
    rng = np.random.default_rng(seed)
    clips = max(1, parts // STEPS)
    draw = _Vectors(rng, dim)
    fields = draw(max(2, clips // (_TOPIC_CLIPS * _FIELD_TOPICS)))
    topics = TOPIC * draw(max(4, clips // _TOPIC_CLIPS))
    topics += FIELD * fields[_sizes(rng, len(fields), len(topics))]
    names = [f"clip{number:08}" for number in range(clips)]
    rows = [{"clip_id": name, "path": f"{name[:7]}/{name}.mp4"} for name in names]
    write_dataset(root / "features", DATASET, clips=rows, captions=[], splits=[], protocols={}, sources=[])
    cone, texts = draw(2)
    pool = draw(min(_POOL, 10 * clips))
    of_topic = _sizes(rng, len(topics), clips)
    chosen = rng.permutation(clips)[:queries]
    centers = np.empty((len(chosen), dim), np.float32)
    spans = np.stack([np.arange(STEPS), np.arange(STEPS) + 1], axis=1).astype(np.float64)
    path = feature_set_path(root / "features", DATASET, recipe(dim))
    with FeatureWriter(path, FeatureCard(recipe(dim)), clips_per_shard=_SHARD) as writer:
        for start in range(0, clips, 1000):
            stop = min(start + 1000, clips)
            center = CONE * cone + topics[of_topic[start:stop]] + CLIP * draw(stop - start)
            for place in np.flatnonzero((chosen >= start) & (chosen < stop)):
                centers[place] = center[chosen[place] - start] - CONE * cone
            shot = np.cumsum(rng.random((stop - start, STEPS)) < 1 / _SHOT_STEPS, axis=1)
            steps = np.repeat(center[:, None], STEPS, axis=1)
            for length, same in ((SHOT, shot), (STEP, np.arange(STEPS))):
                for _ in range(2):
                    drawn = np.take_along_axis(rng.integers(0, len(pool), (stop - start, STEPS)), same + 0 * shot, 1)
                    steps += np.float32(length / np.sqrt(2)) * pool[drawn]
            steps /= np.linalg.norm(steps, axis=2, keepdims=True)
            for name, values in zip(names[start:stop], steps.astype(np.float16), strict=True):
                writer.add(name, values, spans, source=Source(f"{name}.mp4", 1, 1))
    asked = CONE * texts + centers + SAID * draw(len(chosen))
    np.save(root / "queries.npy", unit_rows(asked).astype(np.float32))


def _sizes(rng: np.random.Generator, groups: int, count: int) -> NDArray[np.int64]:
    """A group for each of ``count``, groups of very different sizes."""
    weights = rng.lognormal(0.0, 1.0, groups)
    return rng.choice(groups, count, p=weights / weights.sum())


class _Vectors:
    """Random vectors of about unit length."""

    def __init__(self, rng: np.random.Generator, dim: int) -> None:
        self._rng, self._dim = rng, dim

    def __call__(self, count: int) -> NDArray[np.float32]:
        return self._rng.standard_normal((count, self._dim), dtype=np.float32) / np.float32(self._dim**0.5)


class MadeUp(Retriever):
    """Steps are their own embeddings; a text is the number of a query, or else some query.

    Parameters
    ----------
    root : Path
        What `write_library` wrote.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._queries = np.load(root / "queries.npy")

    def describe(self) -> dict[str, Any]:
        """What it is."""
        return {"retriever": "made up"}

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The query of each number; texts that are no number are spread over the queries."""
        numbers = [int(text) if text.isdecimal() else sum(text.encode()) for text in texts]
        found: NDArray[np.float32] = self._queries[np.asarray(numbers, np.int64) % len(self._queries)]
        return found

    def encode_clips(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32]:
        """Means of steps."""
        return unit_rows([np.asarray(clip, np.float32).mean(axis=0) for clip in clips]).astype(np.float32)

    def encode_steps(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32]:
        """The steps."""
        return unit_rows(np.concatenate([np.asarray(clip) for clip in clips])).astype(np.float32)

    def open_clips(self, store: str | Path | None = None, dataset: str | None = None) -> Clips:
        """The library."""
        store = self.root / "features"
        path = feature_set_path(store, DATASET, recipe(self._queries.shape[1]))
        return Clips(open_dataset(store, DATASET), AlignedFeatures([FeatureSet.open(path)]), None, self.root / "cache")

    def check_text(self) -> None:
        """Nothing to load."""

    def key(self) -> list[str]:
        """What decides embeddings."""
        return ["made up"]
