"""A store of long films put together from short scenes, so that the right moment is known, and a retriever for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.retriever import Clips, Retriever
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.dataset import write_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter, Source

DIM = 32
SCENE_S = 12  # seconds of a scene; a step a second
SCENES = 40


def films_recipe(dim: int = DIM) -> Recipe:
    """The recipe of features that no encoder made."""
    return Recipe(
        kind="video", backbone="planted:scenes", weights="", weights_hash="xxh3-128:0", transform={},
        sampling={"fps": 1.0}, layer="pooled", pooling="none", dim=dim, dtype="float16",
    )  # fmt: skip


def make_films(
    root: Path, films: int = 5, scenes: int = 8, start_s: float = 0.0, step_s: float = 1.0
) -> dict[str, tuple[str, float]]:
    """Write films of scenes 0 to 39; return the film and the start of each scene, in seconds of the file."""
    rng = np.random.default_rng(3)
    topics = rng.normal(size=(SCENES, DIM))
    recipe = films_recipe()
    ids = [f"film{number}" for number in range(films)]
    rows = [{"clip_id": film, "path": f"{film}.mp4", "start_s": start_s, "end_s": start_s + 96.0} for film in ids]
    write_dataset(root, "films", clips=rows, captions=[], splits=[], protocols={}, sources=[])
    where = {}
    with FeatureWriter(feature_set_path(root, "films", recipe), FeatureCard(recipe)) as writer:
        for number, film in enumerate(ids):
            shown = range(number * scenes, (number + 1) * scenes)
            where |= {str(scene): (film, start_s + SCENE_S * place) for place, scene in enumerate(shown)}
            steps = np.repeat(topics[list(shown)], SCENE_S, axis=0)
            values = (steps + 0.7 * rng.normal(size=steps.shape)).astype(np.float16)
            seconds = step_s * np.arange(len(values) + 1)
            spans = np.stack([seconds[:-1], seconds[1:]], axis=1)
            writer.add(film, values, spans, source=Source(f"{film}.mp4", 1, 1))
    return where


def make_cuts(root: Path, files: int = 8) -> None:
    """Write the same scenes as clips of one scene each, cut from files of equal length, in random order."""
    rng = np.random.default_rng(3)
    topics = rng.normal(size=(SCENES, DIM))
    recipe, scenes = films_recipe(), SCENES // files
    rows = [
        {"clip_id": f"scene{scene}", "path": f"file{scene // scenes}.mp4", "start_s": SCENE_S * (scene % scenes),
         "end_s": SCENE_S * (scene % scenes + 1)}
        for scene in rng.permutation(SCENES).tolist()
    ]  # fmt: skip
    write_dataset(root, "films", clips=rows, captions=[], splits=[], protocols={}, sources=[])
    with FeatureWriter(feature_set_path(root, "films", recipe), FeatureCard(recipe)) as writer:
        for row in rows:
            topic = topics[int(row["clip_id"].removeprefix("scene"))]
            values = (topic + 0.7 * rng.normal(size=(SCENE_S, DIM))).astype(np.float16)
            seconds = np.arange(SCENE_S + 1.0)
            spans = np.stack([seconds[:-1], seconds[1:]], axis=1)
            writer.add(row["clip_id"], values, spans, source=Source(row["path"], 1, 1))


def _unrelated(text: str) -> NDArray[np.float64]:
    return np.random.default_rng(list(text.encode())).normal(size=DIM)


class Planted(Retriever):
    """A text is the number of a scene; a clip is the mean of its steps. ``by_step``: it embeds steps, too."""

    def __init__(self, store: Path, by_step: bool) -> None:
        self.store, self.by_step, self.encoded = store, by_step, 0

    def describe(self) -> dict[str, Any]:
        return {}

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        topics = np.random.default_rng(3).normal(size=(SCENES, DIM))
        found = [topics[int(text)] if text.isdecimal() else _unrelated(text) for text in texts]
        return unit_rows(np.stack(found)).astype(np.float32)

    def encode_clips(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32]:
        self.encoded += len(clips)
        return unit_rows([np.asarray(clip, np.float64).mean(axis=0) for clip in clips]).astype(np.float32)

    def encode_steps(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32] | None:
        return (
            unit_rows(np.concatenate([np.asarray(clip) for clip in clips])).astype(np.float32) if self.by_step else None
        )

    def open_clips(self, store: str | Path | None = None, dataset: str | None = None) -> Clips:
        from supportset.store.format.dataset import open_dataset
        from supportset.store.read.catalog import locate_feature_set

        info = locate_feature_set(self.store, "films/planted", "video")
        features = AlignedFeatures([FeatureSet.open(info.path)])
        return Clips(open_dataset(self.store, "films"), features, None, self.store / "cache")

    def check_text(self) -> None:
        pass

    def key(self) -> list[str]:
        return [f"planted {self.by_step}"]
