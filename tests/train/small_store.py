"""A tiny store with planted concepts: colour, thing and motion are directions in feature space and words in captions.

Clips that share a concept share a direction, so a support set means something, and a model that learns the words finds
the clips. Everything is a function of the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.dataset import Dataset, write_dataset
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter, Source
from supportset.train.config import Config, parse_config

COLOURS = ("red", "green", "blue", "white")
THINGS = ("ball", "box", "star", "ring")
MOTIONS = ("rolls", "jumps", "spins", "waits")
DIM = 24


def recipe(**changes: Any) -> Recipe:
    """The recipe of the planted features, or one that differs."""
    fields = {
        "kind": "video",
        "backbone": "planted:concepts",
        "weights": "seed 0",
        "weights_hash": "xxh3-128:0",
        "transform": {},
        "sampling": {"fps": 1.0},
        "layer": "pooled",
        "pooling": "none",
        "dim": DIM,
        "dtype": "float16",
    }
    return Recipe(**{**fields, **changes})


def recipe_of(backbone: str) -> Recipe:
    """The recipe of features that a backbone would make now, by its name."""
    from supportset.extract.backbones import load_backbone
    from supportset.extract.decode.sampling import Sampling
    from supportset.extract.pipeline.recipe import fit_sampling, make_recipe

    loaded = load_backbone(backbone)
    return make_recipe(loaded, fit_sampling(Sampling(fps=1.0), loaded), "float16")


@dataclass
class SmallStore:
    """What `plant` wrote."""

    root: Path
    dataset: Dataset
    concepts: dict[str, tuple[str, str, str]]
    unextracted: list[str] = field(default_factory=list)


def plant(
    root: Path,
    name: str = "small",
    *,
    clips_per_concept: int = 3,
    missing: tuple[str, ...] = (),
    captions: bool = True,
    noise: float = 0.05,
    of: Recipe | None = None,
    given: str | None = None,
    expected_test: int | None = 64,
) -> SmallStore:
    """Write a dataset of 64 concept triples and the features of its clips.

    The first clips of each triple train, the last one is the test clip. Two training clips of consecutive triples share
    a source video. Features are cut to the length of the recipe ``of``; ``given`` is what its encoder was loaded by.
    Clips named in ``missing`` have a failure in the feature set instead of features.
    """
    rng = np.random.default_rng(7)
    dim = max(DIM, (of or recipe()).dim)
    directions = {word: rng.normal(size=dim) for word in (*COLOURS, *THINGS, *MOTIONS)}
    clips, texts, splits, concepts, features = [], [], [], {}, {}
    for number, words in enumerate(product(COLOURS, THINGS, MOTIONS)):
        colour, thing, motion = words
        for copy in range(clips_per_concept):
            clip_id = f"clip{number:02d}-{copy}"
            test = copy == clips_per_concept - 1
            concepts[clip_id] = words
            source = None if test else f"film{number // 2:02d}-{copy}"
            clips.append({"clip_id": clip_id, "path": f"{clip_id}.mp4", "source": source})
            said = [f"a {colour} {thing} {motion}", f"the {thing} that is {colour} {motion} here"]
            if captions:
                texts += [
                    {"caption_id": f"{clip_id}#{i}", "clip_id": clip_id, "text": text} for i, text in enumerate(said)
                ]
                splits.append({"protocol": "planted", "split": "test" if test else "train", "clip_id": clip_id})
            steps = int(rng.integers(2, 7))
            centre = sum(directions[word] for word in words)
            features[clip_id] = centre + noise * rng.normal(size=(steps, dim))
    protocols = {"planted": {"train": None, "test": expected_test, "empty": None}} if captions else {}
    dataset = write_dataset(root, name, clips=clips, captions=texts, splits=splits, protocols=protocols, sources=[])
    card = FeatureCard(of or recipe(), {} if given is None else {"backbone": given})
    with FeatureWriter(feature_set_path(root, name, card.recipe), card) as writer:
        for clip_id, values in features.items():
            source = Source(f"films/{clip_id}.mp4", 1, 1)
            if clip_id in missing:
                writer.fail(clip_id, "unreadable", "planted failure", source=source)
                continue
            seconds = np.arange(len(values) + 1, dtype=float)
            writer.add(clip_id, values[:, : card.recipe.dim], np.stack([seconds[:-1], seconds[1:]], 1), source=source)
    return SmallStore(root, dataset, concepts, list(missing))


def config(**sections: Any) -> Config:
    """A configuration of a model small enough to train in seconds; sections are merged into it."""
    tree: dict[str, Any] = {
        "name": "small",
        "seed": 0,
        "dim": 32,
        "data": {"dataset": "small", "features": ["planted"], "protocol": "planted", "holdout": 0.1, "max_steps": 5},
        "video": {"width": 32, "heads": 4, "layers": 1, "norm": "layer", "dropout": 0.1},
        "text": {"encoder": "words", "head": "mean", "width": 32, "heads": 4, "layers": 1, "norm": "layer",
                 "dropout": 0.1, "vocabulary": 100},
        "decoder": {"kind": "scratch", "width": 32, "heads": 4, "layers": 1, "vocabulary": 100},
        "loss": {"caption_weight": 0.5},
        "optim": {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "max_grad_norm": 5.0, "log_every": 3},
    }  # fmt: skip
    for section, values in sections.items():
        tree[section] = {**tree.get(section, {}), **values} if isinstance(values, dict) else values
    return parse_config(tree, "test")


def damage_features(root: Path, kind: str = "video") -> None:
    """Flip bits of most clips in the values of each feature set of a kind; indexes and tables stay intact."""
    for path in (root / "small" / "features").iterdir():
        if FeatureSet.open(path).card.recipe.kind == kind:
            values = max((path / "shards").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
            content = bytearray(values.read_bytes())
            for place in range(len(content) // 8, len(content) * 7 // 8, 80):
                content[place] ^= 0x11
            values.write_bytes(content)
