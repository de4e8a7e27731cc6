"""Patch tokens: those of the libraries, in order, averaged on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers as tf

from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.hf_types import TYPES
from supportset.extract.backbones.tokens import TokenGrid
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import assert_same, features
from tests.extract.backbones.frames import frame, video
from tests.extract.backbones.hf_models import MODELS, saved
from tests.extract.backbones.test_open_clip import CONFIG

PICTURES = [frame(240, 320, 1), frame(97, 143, 2)]
# Tokens of the small models before the patches: class token and registers
PREFIX = {"siglip": 0, "siglip_vision_model": 0, "dinov2_with_registers": 5, "dinov3_vit": 3, "videomae": 0,
          "videoprism": 0, "videoprism_vision_model": 0, "vjepa2": 0}  # fmt: skip


def hidden(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The last hidden state of the visual tower, by the library's own class."""
    tower = getattr(model, "vision_model", None) or getattr(model, "video_model", None) or model
    inputs = {"pixel_values_videos" if tower.main_input_name.endswith("videos") else "pixel_values": pixels}
    if isinstance(tower, getattr(tf, "VJEPA2Model", ())):
        inputs["skip_predictor"] = True
    with torch.inference_mode():
        return tower(**inputs).last_hidden_state


@pytest.mark.parametrize("name", [name for name in MODELS if TYPES[name].tokens])
def test_tokens_of_transformers(name: str, tmp_path: Path) -> None:
    model, _ = saved(name, tmp_path)
    window = MODELS[name].window
    steps = PICTURES if window == 1 else [video(window, 90, 120, 1), video(window, 130, 97, 2)]
    pooled, every, few = (load_backbone(f"hf:{tmp_path}{asked}") for asked in ("", "#tokens", "#tokens=4"))
    transform = every.frame_transform()
    frames = torch.stack([torch.stack([torch.from_numpy(transform(each)) for each in (step if window > 1 else [step])])
                          for step in steps])  # fmt: skip
    wanted = hidden(model, pooled._normalise(frames.squeeze(1)))[:, PREFIX.get(name, 1) :]
    slices = 2 if name in ("videomae", "vjepa2") else window
    assert (every.vectors, few.vectors) == (16 * slices, 4 * slices)
    assert (every.name, few.name) == (f"hf:{tmp_path.name}#tokens", f"hf:{tmp_path.name}#tokens=4")
    assert every.weights_hash == few.weights_hash == pooled.weights_hash
    assert every.dim == wanted.shape[-1]
    assert_same(features(every, steps), wanted)
    quarters = wanted.reshape(2, slices, 2, 2, 2, 2, -1).mean((3, 5)).reshape(2, 4 * slices, -1)
    assert_same(features(few, steps), quarters)


def test_tokens_of_open_clip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG).eval()
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    backbone = load_backbone(f"open_clip:{tmp_path}#tokens")
    assert (backbone.vectors, backbone.dim) == (16, 64)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        wanted = model.visual.forward_intermediates(pixels, indices=1, normalize_intermediates=True, output_fmt="NLC")
        assert_same(backbone.encode(pixels), wanted["image_intermediates"][-1])
    assert features(load_backbone(f"open_clip:{tmp_path}#tokens=9"), PICTURES).shape == (2, 9, 64)
    assert load_backbone(f"open_clip:{tmp_path}").weights_hash == backbone.weights_hash


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "vit_pe_core_tiny_patch16_384"])
def test_tokens_of_timm(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = load_backbone(f"timm:{name}#tokens@{tmp_path / 'weights.pth'}")
    pixels = torch.randn(1, 3, *model.patch_embed.img_size)
    with torch.inference_mode():
        wanted = model.forward_features(pixels)[:, model.num_prefix_tokens :]
        assert_same(backbone.encode(pixels), wanted)
    assert (backbone.vectors, backbone.dim) == wanted.shape[1:]


def test_models_without_such_tokens_are_refused(tmp_path: Path) -> None:
    for name in ("siglip2", "xclip"):  # of any shape; mixed with a message token
        saved(name, tmp_path / name)
        with pytest.raises(
            UsageError, match=rf"type '{name}' have no grid of tokens of one size: leave out #tokens, or"
        ):
            load_backbone(f"hf:{tmp_path / name}#tokens")
    saved("dinov2", tmp_path / "dinov2")
    for many in (5, 25):
        with pytest.raises(UsageError, match=f"tokens={many} should be a square number up to 16"):
            load_backbone(f"hf:{tmp_path / 'dinov2'}#tokens={many}")
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UsageError, match="it is no plain ViT, so it has no patch tokens"):
        load_backbone(f"timm:resnet18#tokens@{tmp_path / 'resnet18.pth'}")
    with pytest.raises(UsageError, match="r2plus1d_34 gives one vector a step: leave out #tokens"):
        load_backbone(f"r2plus1d_34:8#tokens@{tmp_path / 'resnet18.pth'}")


def test_grids_are_not_only_square() -> None:
    tokens = torch.arange(24.0).reshape(1, 24, 1)
    grid = TokenGrid.make("x", 1, slices=2, rows=3, columns=4)
    assert grid.pool(tokens).flatten().tolist() == [5.5, 17.5]
    assert TokenGrid.make("x", 0, 2, 3, 4).pool(tokens) is tokens
