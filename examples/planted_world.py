"""Write a made-up dataset whose truth is known: features with planted concepts, and captions that name them.

A concept is an animal, an action and a place. Each of them is a direction in feature space; a step of a clip is the sum
of its three directions, of a direction of the clip's own (its looks, which no caption tells) and of noise. A caption
names all three, each by one of three synonyms drawn at random, in one of two forms. So whatever can be said of a clip
can be said of the other clips of its concept, but how a caption says it is in no clip at all. Test and validation
have one clip of each concept: an answer is right or wrong by its concept alone.

    python examples/planted_world.py --store features
    python cli.py train configs/ablations/base/planted.toml
    python cli.py report runs/planted --support --split train

It is also an example of how to write a dataset of one's own from Python.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import click
import numpy as np

from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.dataset import write_dataset
from supportset.store.read.catalog import feature_set_path
from supportset.store.write.writer import FeatureWriter

WORDS = [
    [f"{role}{letter}" for letter in "bcdfghjk"[:count]] for role, count in (("animal", 8), ("do", 8), ("place", 6))
]
SYNONYMS = "aei"  # the last letter of a word
CAPTIONS = 4  # of a clip, at most: equal ones are one
DIM = 128
STEPS = 4, 10
NOISE = 1.0  # length of a step's noise; a concept's directions are 1 long

Concept = tuple[str, ...]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def directions(rng: np.random.Generator, *shape: int) -> Floats:
    """Random vectors of length 1, along the last axis."""
    values = rng.normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def caption(rng: np.random.Generator, concept: Concept) -> str:
    """A sentence that names all of the concept."""
    animal, action, place = (word + SYNONYMS[rng.integers(len(SYNONYMS))] for word in concept)
    forms = (f"a {animal} will {action} at {place}", f"at {place} there is a {animal} to {action}")
    return forms[rng.integers(len(forms))]


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--store", default="features", show_default=True, help="The feature store.")
@click.option("--name", default="planted", show_default=True, help="Of the dataset.")
@click.option("--concepts", default=256, show_default=True, type=click.IntRange(2, 384))
@click.option("--repeats", default=8, show_default=True, type=click.IntRange(1), help="Training clips of a concept.")
@click.option("--looks", default=5.0, show_default=True, type=click.FloatRange(0), help="Length of a clip's looks.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def main(store: str, name: str, concepts: int, repeats: int, looks: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    every = list(product(*WORDS))
    known: list[Concept] = [every[i] for i in rng.permutation(len(every))[:concepts]]
    words = [word for role in WORDS for word in role]
    meaning = dict(zip(words, directions(rng, len(words), DIM), strict=True))
    shown = {"train": known * repeats, "val": known, "test": known}
    world = {"concepts": concepts, "repeats": repeats, "looks": looks, "seed": seed}
    recipe = Recipe("video", "planted", "none", "unknown", world, {}, "none", "none", DIM, "float16")
    clips, captions, splits = [], [], []
    with FeatureWriter(feature_set_path(store, name, recipe), FeatureCard(recipe)) as writer:
        for split, number, concept in ((s, n, c) for s, each in shown.items() for n, c in enumerate(each)):
            clip = f"{split}{number:05d}"
            clips.append({"clip_id": clip})
            splits.append({"protocol": "planted", "split": split, "clip_id": clip})
            texts = dict.fromkeys(caption(rng, concept) for _ in range(CAPTIONS))
            captions += [{"caption_id": f"{clip}#{i}", "clip_id": clip, "text": t} for i, t in enumerate(texts)]
            steps = int(rng.integers(*STEPS))
            content = sum(meaning[word] for word in concept) + looks * directions(rng, DIM)
            seconds = np.arange(steps)[:, None] + [0.0, 1.0]
            writer.add(clip, content + NOISE * directions(rng, steps, DIM), seconds)
    protocols = {"planted": {split: len(each) for split, each in shown.items()}}
    write_dataset(store, name, clips=clips, captions=captions, splits=splits, protocols=protocols, sources=[])
    sizes = ", ".join(f"{len(each):,} {split}" for split, each in shown.items())
    click.echo(f"{name}: {sizes} clips of {concepts} concepts, {len(captions):,} captions, in {store}")


if __name__ == "__main__":
    main()
