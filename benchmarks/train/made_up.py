"""Made-up data of the shape of MSR-VTT and of Flickr8k, in stores of their own; captions are real where found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.dataset import write_dataset
from supportset.store.read.catalog import feature_set_path
from supportset.store.write.writer import FeatureWriter

VIDEOS, IMAGES = "videos", "images"
PROTOCOL = "all"
APPEARANCE, MOTION, PICTURE, WORDS = "appearance", "motion", "picture", "words"
IMAGE_DIM, WORD_DIM = 1280, 384  # EfficientNet-Lite0 and MiniLM

_ANNOTATION = Path("msrvtt") / "train_val_videodatainfo.json"
_WORDS_OF_CAPTION = (10, 4, 3, 30)  # mean, spread, fewest and most of a made-up one
_POOL = 4096  # rows of random numbers that all features are cut from

Features = NDArray[np.float16]


def captions_of(clips: int, each: int, real: Path) -> tuple[list[list[str]], str]:
    """``each`` captions for every clip, and where they are from.

    Real ones of MSR-VTT, again and again where they are few, or made-up ones of about their length.
    """
    file = real / _ANNOTATION
    if file.is_file():
        found: dict[str, list[str]] = {}
        for sentence in json.loads(file.read_text(encoding="utf-8"))["sentences"]:
            found.setdefault(sentence["video_id"], []).append(sentence["caption"])
        return [
            list(islice(cycle(texts), each)) for texts in islice(cycle(found.values()), clips)
        ], "MSR-VTT's captions"
    rng = np.random.default_rng(4)
    letters = np.array(list("abcdefghijklmnoprstuvw"))
    lexicon = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(4000)]
    often = 1 / np.arange(1, len(lexicon) + 1)
    mean, spread, fewest, most = _WORDS_OF_CAPTION
    lengths = np.clip(np.rint(rng.normal(mean, spread, clips * each)), fewest, most).astype(int)
    texts = iter([" ".join(rng.choice(lexicon, length, p=often / often.sum())) for length in lengths])
    return [list(islice(texts, each)) for _ in range(clips)], f"made-up captions, {lengths.mean():.1f} words on average"


def write_videos(
    root: Path,
    captions: Sequence[Sequence[str]],
    steps: tuple[int, int],
    dims: tuple[int, int],
    npy: Path | None = None,
) -> None:
    """Write clips of random lengths with two feature sets; where asked, also one ``.npy`` a clip, both side by side."""
    ids = _write_tables(root, VIDEOS, captions)
    clips = dict(_clips(ids, steps, sum(dims)))
    for name, first, last in ((APPEARANCE, 0, dims[0]), (MOTION, dims[0], sum(dims))):
        _write_set(
            root, VIDEOS, _recipe(name, last - first), {key: values[:, first:last] for key, values in clips.items()}
        )
    if npy is not None:
        npy.mkdir(parents=True)
        for clip_id, values in clips.items():
            np.save(npy / f"{clip_id}.npy", values)


def write_images(root: Path, captions: Sequence[Sequence[str]]) -> None:
    """Write clips of one step with one feature set, and token features of the captions."""
    ids = _write_tables(root, IMAGES, captions)
    _write_set(root, IMAGES, _recipe(PICTURE, IMAGE_DIM), dict(_clips(ids, (1, 1), IMAGE_DIM)))
    lengths = {
        f"{key}#{i}": len(text.split()) + 2
        for key, texts in zip(ids, captions, strict=True)
        for i, text in enumerate(texts)
    }
    pool, rng = _pool(WORD_DIM), np.random.default_rng(5)
    starts = rng.integers(0, _POOL - max(lengths.values()), len(lengths))
    words = {key: pool[start : start + length] for (key, length), start in zip(lengths.items(), starts, strict=True)}
    _write_set(root, IMAGES, _recipe(WORDS, WORD_DIM, kind="text"), words)


def set_names(dataset: str) -> list[str]:
    """What ``data.features`` is for one of these datasets."""
    return [f"{dataset}/{name}" for name in ((APPEARANCE, MOTION) if dataset == VIDEOS else (PICTURE,))]


def _write_tables(root: Path, name: str, captions: Sequence[Sequence[str]]) -> list[str]:
    ids = [f"{name[:-1]}{number:05d}" for number in range(len(captions))]
    rows = [
        {"caption_id": f"{clip_id}#{i}", "clip_id": clip_id, "text": text}
        for clip_id, texts in zip(ids, captions, strict=True)
        for i, text in enumerate(texts)
    ]
    clips = [{"clip_id": clip_id, "path": f"{clip_id}.mp4"} for clip_id in ids]
    splits = [{"protocol": PROTOCOL, "split": "train", "clip_id": clip_id} for clip_id in ids]
    protocols = {PROTOCOL: {"train": None}}
    write_dataset(root, name, clips=clips, captions=rows, splits=splits, protocols=protocols, sources=[])
    return ids


def _clips(ids: Sequence[str], steps: tuple[int, int], dim: int) -> Iterator[tuple[str, Features]]:
    pool, rng = _pool(dim), np.random.default_rng(6)
    for clip_id in ids:
        length = int(rng.integers(steps[0], steps[1] + 1))
        start = int(rng.integers(0, _POOL - length))
        yield clip_id, pool[start : start + length]


def _pool(dim: int) -> Features:
    return np.random.default_rng(dim).standard_normal((_POOL, dim), dtype=np.float32).astype(np.float16)


def _recipe(name: str, dim: int, kind: str = "video") -> Recipe:
    fields: dict[str, Any] = {"transform": {}, "sampling": {}, "layer": "none", "pooling": "none", "dtype": "float16"}
    return Recipe(kind=kind, backbone=name, weights="random", weights_hash="unknown", dim=dim, **fields)


def _write_set(root: Path, dataset: str, recipe: Recipe, features: dict[str, Features]) -> None:
    card = FeatureCard(recipe, {})
    with FeatureWriter(feature_set_path(root, dataset, card.recipe), card) as writer:
        for key, values in features.items():
            seconds = np.arange(len(values) + 1, dtype=np.float64)
            writer.add(key, values, np.stack([seconds[:-1], seconds[1:]], 1))
