"""R(2+1)D-34 against the network that the converted IG-65M weights are published with, written out here by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet
from torchvision.transforms._presets import VideoClassification

from supportset.extract.backbones import load_backbone
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import assert_same, features
from tests.extract.backbones.frames import video

pytestmark = pytest.mark.slow


def published_network(classes: int = 359) -> VideoResNet:
    """What moabitcoin/ig65m-pytorch builds, with random parameters and batch statistics."""
    torch.manual_seed(0)
    model = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem, num_classes=classes)
    model.layer2[0].conv2[0] = Conv2Plus1D(128, 128, 288)
    model.layer3[0].conv2[0] = Conv2Plus1D(256, 256, 576)
    model.layer4[0].conv2[0] = Conv2Plus1D(512, 512, 1152)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps, module.momentum = 1e-3, 0.9
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.01, 0.5)  # small, so that the epsilon shows
    return model.eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoResNet, Path]:
    model = published_network()
    path = tmp_path_factory.mktemp("weights") / "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth"
    torch.save(model.state_dict(), path)
    model.fc = nn.Identity()
    return model, path


def test_a_window_gives_the_pooled_features_of_the_published_network(published: tuple[VideoResNet, Path]) -> None:
    """With the transform and at full size, on 8 frames to be quick: the network is the same for 32."""
    model, path = published
    backbone = load_backbone(f"r2plus1d_34:8@{path}")
    clip = video(8, 256, 342)  # halved exactly: torch and we agree on every tie
    preset = VideoClassification(crop_size=(112, 112), resize_size=(128, 171))
    with torch.inference_mode():
        expected = model(preset(torch.from_numpy(clip).permute(0, 3, 1, 2))[None])
    assert backbone.window == 8
    assert_same(features(backbone, [clip]), expected)


def test_windows_of_32_frames_are_told_apart_and_never_mixed(published: tuple[VideoResNet, Path]) -> None:
    """On small pixels, where several windows are cheap."""
    model, path = published
    backbone = load_backbone(f"r2plus1d_34@{path}")
    assert (backbone.window, backbone.dim, backbone.name) == (32, 512, "r2plus1d_34")
    assert backbone.weights == path.name
    pixels = torch.randn(2, 32, 3, 16, 16)
    with torch.inference_mode():
        assert_same(backbone.encode(pixels), model(pixels.transpose(1, 2)))


def test_the_number_of_classes_does_not_matter(published: tuple[VideoResNet, Path], tmp_path: Path) -> None:
    state = torch.load(published[1], weights_only=True)
    torch.save(state | {"fc.weight": torch.zeros(2, 512), "fc.bias": torch.zeros(2)}, tmp_path / "kinetics.pth")
    hashes = [load_backbone(f"r2plus1d_34@{path}").weights_hash for path in (published[1], tmp_path / "kinetics.pth")]
    assert hashes[0] == hashes[1]


def test_torchvisions_own_widths_are_refused(published: tuple[VideoResNet, Path], tmp_path: Path) -> None:
    """The trap of this model: torchvision's blocks are narrower, and their weights would fill most of it."""
    narrow = Conv2Plus1D(128, 128, 128 * 64 * 27 // (64 * 9 + 3 * 128)).state_dict()
    state = torch.load(published[1], weights_only=True)
    state |= {f"layer2.0.conv2.0.{name}": value for name, value in narrow.items()}
    torch.save(state, tmp_path / "narrow.pth")
    with pytest.raises(UsageError, match=r"narrow\.pth: cannot be loaded .* has another shape for layer2\.0\.conv2"):
        load_backbone(f"r2plus1d_34@{tmp_path / 'narrow.pth'}")


def test_without_a_file_it_says_which_one() -> None:
    with pytest.raises(UsageError, match=r"449a7af9\.pth of moabitcoin/ig65m-pytorch.*r2plus1d_34@PATH"):
        load_backbone("r2plus1d_34")


def test_other_windows_are_refused() -> None:
    with pytest.raises(UsageError, match="32 or 8 frames"):
        load_backbone("r2plus1d_34:16")
