"""bf16 and fp16 keep their stated tolerance against fp32: a small model of every family, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn

from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.encoder import PRECISIONS
from supportset.extract.backbones.families.r2plus1d_34 import r2plus1d_34
from supportset.extract.recheck.tolerance import FORWARD
from tests.extract.backbones.frames import frame, video
from tests.extract.backbones.hf_models import MODELS, saved
from tests.extract.backbones.test_torchvision import randomised

COSINE = {"bf16": 0.995, "fp16": 0.9998}  # what a relative difference of the tolerance leaves


def of_hf(name: str, folder: Path) -> Backbone:
    saved(name, folder / name)
    return load_backbone(f"hf:{folder / name}")


def of_timm(name: str, folder: Path) -> Backbone:
    torch.manual_seed(0)
    torch.save(timm.create_model(name, pretrained=False).state_dict(), folder / "weights.pth")
    return load_backbone(f"timm:{name}@{folder / 'weights.pth'}")


def of_torchvision(name: str, folder: Path) -> Backbone:
    torch.save(randomised(name).state_dict(), folder / "weights.pth")
    return load_backbone(f"torchvision:{name}@{folder / 'weights.pth'}")


FAMILIES: dict[str, Callable[[str, Path], Backbone]] = {
    **dict.fromkeys(MODELS, of_hf),
    **dict.fromkeys(["test_vit.r160_in1k", "mobilenetv3_small_050.lamb_in1k"], of_timm),
    **dict.fromkeys(["mobilenet_v3_small", "squeezenet1_1"], of_torchvision),
}


def pixels_of(backbone: Backbone) -> Tensor:
    """What the model is given, by the way of an extraction."""
    transform, window = backbone.frame_transform(), backbone.window
    steps = [video(window, 90, 120, seed) if window > 1 else frame(90, 120, seed)[None] for seed in range(3)]
    frames = torch.stack([torch.stack([torch.from_numpy(transform(picture)) for picture in step]) for step in steps])
    return backbone._normalise(frames.squeeze(1) if window == 1 else frames)


def assert_tolerable(encode: Callable[[Tensor], Tensor], pixels: Tensor) -> None:
    """Both short types against fp32."""
    with torch.inference_mode():
        full = encode(pixels)
        assert full.std(0).max() > 1e-4 * full.abs().max(), "the frames must tell apart what is compared"
        for precision in ("bf16", "fp16"):
            with torch.autocast("cpu", dtype=PRECISIONS[precision]):
                short = encode(pixels).float()
            relative = (short - full).norm(dim=1) / full.norm(dim=1)
            assert 0 < relative.max() < FORWARD[precision]
            assert torch.cosine_similarity(short, full).min() > COSINE[precision]


@pytest.mark.parametrize("name", FAMILIES)
def test_short_types_keep_their_stated_tolerance(name: str, tmp_path: Path) -> None:
    backbone = FAMILIES[name](name, tmp_path)
    assert_tolerable(backbone.encode, pixels_of(backbone))


def test_open_clip_too() -> None:
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=64)
    model = open_clip.model.CLIP(20, vision, open_clip.CLIPTextCfg(width=32, heads=2, layers=1)).eval()
    assert_tolerable(model.encode_image, torch.randn(3, 3, 64, 64))


def test_convolutions_in_time_too() -> None:
    """The first block of R(2+1)D-34 on a few pixels: on a CPU the whole of it takes minutes in short types."""
    torch.manual_seed(0)
    network = r2plus1d_34().eval()
    first = nn.Sequential(network.stem, network.layer1[0])
    assert_tolerable(lambda pixels: first(pixels).mean((2, 3, 4)), torch.randn(2, 3, 2, 16, 16))


def test_the_stated_cosine_follows_from_the_stated_difference() -> None:
    for precision, cosine in COSINE.items():
        assert math.isclose(cosine, 1 - FORWARD[precision] ** 2 / 2, abs_tol=1e-4)
