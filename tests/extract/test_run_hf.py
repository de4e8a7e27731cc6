"""Whole runs of models of transformers: through decode workers into the store, extracted again, compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from supportset.extract.backbones import load_backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.forward import Forward
from supportset.extract.recheck.reextract import reextract
from supportset.store.format.dataset import Dataset
from supportset.store.read.feature_set import FeatureSet
from tests.extract.backbones.hf_models import MODELS, pil, saved
from tests.extract.fakes import dataset_of
from tests.extract.films import write_video
from tests.extract.runs import extract_with

pytestmark = pytest.mark.slow

# Those that take another way than a frame and a vector: windows, patches with a mask, tokens, the library's processor
NAMES = [name for name in ("siglip2", "videoprism", "pe_video", "vjepa2", "dinov2#tokens=4", "vit of ConvNext")
         if name.split("#")[0].split()[0] in MODELS]  # fmt: skip


def model_folder(name: str, folder: Path) -> str:
    """Save a model; return its name as a user gives it."""
    kind, _, processor = name.partition(" of ")
    kind, mark, asked = kind.partition("#")
    saved(kind, folder)
    if processor:
        for file in folder.glob("*processor*.json"):
            file.unlink()
        pil(f"{processor}ImageProcessor", size={"shortest_edge": 64}, crop_pct=0.8).save_pretrained(folder)
    return f"hf:{folder}{mark}{asked}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_agrees_with_what_is_extracted_again(name: str, tmp_path: Path) -> None:
    backbone = load_backbone(model_folder(name, tmp_path / "model"))
    films = {f"c{i}": f"{i}.mp4" for i in range(3)}
    videos = tmp_path / "videos"
    videos.mkdir()
    for i, film in enumerate(films.values()):
        write_video(videos / film, 30 + 10 * i, size=(64 + 16 * i, 48))
    dataset: Dataset = dataset_of(tmp_path / "features", dict(films))
    summary = extract_with(
        dataset, tmp_path / "features", videos, backbone, Sampling(fps=2.0), workers=1, device="cpu", progress=False
    )
    stored = FeatureSet.open(summary.path)
    values, offsets = stored.read(list(films))
    assert np.diff(offsets).min() >= 2 * backbone.vectors
    assert len(np.unique(values.round(2), axis=0)) > backbone.vectors, "steps differ"
    again = reextract(stored, dataset, videos, load_backbone(backbone.given), 3)
    assert again.to_json()["outcomes"] == {"agrees": 3}


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_any_size_and_half_precision_agree(name: str, tmp_path: Path) -> None:
    """Frames of zeros too: the search of the batch size, and padding where the forward is compiled, use them."""
    backbone = load_backbone(model_folder(name, tmp_path))
    transform = backbone.frame_transform()
    random = np.random.default_rng(0)
    frames = [transform(picture) for picture in random.integers(0, 256, (5 * backbone.window, 50, 70, 3), np.uint8)]
    steps = torch.from_numpy(np.stack(frames)).unflatten(0, (5, backbone.window))
    whole = Forward(backbone, 8)(torch.cat([steps, torch.zeros_like(steps)]))
    parts = torch.cat([Forward(backbone, 2)(part) for part in steps.split(2)])
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(whole[: len(parts)], parts, atol=1e-4, rtol=1e-4)
    backbone.to("cpu", "bf16")
    short = Forward(backbone, 8)(steps)
    assert ((short - parts).norm(dim=1) / parts.norm(dim=1)).max() < 0.1
