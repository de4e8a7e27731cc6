"""A dataset of small films with the features of an encoder pair, and its scores by the pair's library alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from supportset.extract.backbones import load_backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.recipe import make_card, make_recipe
from supportset.store.format.dataset import Dataset, write_dataset
from supportset.store.read.catalog import feature_set_path
from supportset.store.write.writer import FeatureWriter, Source
from tests.extract.backbones import hf_models
from tests.extract.backbones.compare import features
from tests.extract.backbones.frames import video

WINDOW = 4  # frames of a step of every clip model here
TEXTS = {
    f"clip{number}": text
    for number, text in enumerate(
        ["a red ball rolls", "two green squares spin", "yellow rings jump over a line", "it falls slowly", "blue star"]
    )
}


def films() -> dict[str, list[np.ndarray]]:
    """Frames of each clip, as windows (WINDOW, H, W, 3): one to three."""
    lengths = {clip: WINDOW * (1 + number % 3) for number, clip in enumerate(TEXTS)}
    return {
        clip: np.split(video(length, 96, 80 + 16 * (number % 2), seed=10 * number), length // WINDOW)
        for number, (clip, length) in enumerate(lengths.items())
    }


def steps_of(windows: list[np.ndarray], window: int) -> list[np.ndarray]:
    """The steps of a clip: its windows, or their first frames for an image model."""
    return windows if window > 1 else [each[0] for each in windows]


def plant(root: Path, backbone_name: str, name: str = "films", *, missing: tuple[str, ...] = ()) -> Dataset:
    """Write the tables, and the features that a backbone gives for the films."""
    dataset = write_dataset(
        root,
        name,
        clips=[{"clip_id": clip, "path": f"{clip}.mp4"} for clip in TEXTS],
        captions=[{"caption_id": f"{clip}#0", "clip_id": clip, "text": text} for clip, text in TEXTS.items()],
        splits=[{"protocol": "films", "split": "test", "clip_id": clip} for clip in TEXTS],
        protocols={"films": {"test": len(TEXTS)}},
        sources=[],
    )
    backbone = load_backbone(backbone_name)
    recipe = make_recipe(backbone, Sampling(fps=1.0, window=backbone.window), "float32")
    card = make_card(recipe, "cpu", "fp32", backbone_name)
    with FeatureWriter(feature_set_path(root, name, recipe), card) as writer:
        for clip, windows in films().items():
            source = Source(f"{clip}.mp4", 1, 1)
            if clip in missing:
                writer.fail(clip, "unreadable", "planted failure", source=source)
                continue
            values = features(backbone, steps_of(windows, backbone.window)).numpy()
            seconds = np.arange(len(values) + 1, dtype=float)
            writer.add(clip, values, np.stack([seconds[:-1], seconds[1:]], 1), source=source)
    return dataset


def unit(vectors: Any) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def transformers_steps(kind: str, model: Any) -> list[np.ndarray]:
    """Unit embeddings of each clip's steps by transformers alone: its processor and its model."""
    case = hf_models.MODELS[kind]
    processor = hf_models.pil(case.processor, **case.options)
    found = (steps_of(windows, case.window) for windows in films().values())
    return [unit(hf_models.expected(kind, model, processor, steps)) for steps in found]


def open_clip_steps(folder: Path) -> list[np.ndarray]:
    """Unit embeddings of each clip's steps by open_clip alone."""
    model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        return [
            unit(model.encode_image(torch.stack([prepare(Image.fromarray(frame)) for frame in steps_of(windows, 1)])))
            for windows in films().values()
        ]


def open_clip_texts(folder: Path, texts: list[str]) -> np.ndarray:
    """Embeddings of texts by open_clip alone."""
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        return model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts)).numpy()


def mean_scores(texts: np.ndarray, steps: list[np.ndarray]) -> np.ndarray:
    """Cosines of texts (N, d) and the means of unit steps: (N, C)."""
    return unit(texts) @ unit([each.mean(0) for each in steps]).T
