"""timm models saved by timm and loaded by path, against timm's own model and evaluation transform."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.families.timm import frame_transform
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import assert_same, features
from tests.extract.backbones.frames import SIZES, frame

pytestmark = pytest.mark.slow


def timm_features(model: torch.nn.Module, config: dict, pictures: list[np.ndarray]) -> torch.Tensor:
    transform = create_transform(**config, is_training=False)
    inputs = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
    with torch.inference_mode():
        return model(inputs)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("name", "dim"), [("resnet10t.c3_in1k", 512), ("test_vit.r160_in1k", 64), ("mobilenetv3_small_050.lamb_in1k", 1024)]
)
def test_features_are_timms_own(name: str, dim: int, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    file = tmp_path / f"weights{suffix}"
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state}, file)
    backbone = load_backbone(f"timm:{name}@{file}")
    pictures = [frame(240, 320, 1), frame(181, 260, 2)]
    config = resolve_data_config(model.pretrained_cfg, model=model)
    model.reset_classifier(0)
    expected = timm_features(model, config, pictures)
    assert (backbone.dim, backbone.window, backbone.name, backbone.weights) == (dim, 1, f"timm:{name}", file.name)
    assert_same(features(backbone, pictures), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("input_size", [(3, 96, 96), (3, 64, 80)])
def test_every_way_of_cropping(size: tuple[int, int], mode: str, input_size: tuple[int, int, int]) -> None:
    config = {"input_size": input_size, "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": mode,
              "mean": (0.4, 0.5, 0.6), "std": (1.0, 1.0, 1.0)}  # fmt: skip
    picture = frame(*size)
    expected = create_transform(**config, is_training=False, normalize=False)(Image.fromarray(picture))
    np.testing.assert_array_equal(frame_transform(config)(picture), expected.permute(1, 2, 0).numpy())


def test_resnet152_of_the_paper_has_its_published_transform(tmp_path: Path) -> None:
    file = tmp_path / "resnet152.pth"
    torch.save(timm.create_model("resnet152", pretrained=False).state_dict(), file)
    backbone = load_backbone(f"resnet152@{file}")
    assert (backbone.name, backbone.dim, backbone.given) == ("timm:resnet152.tv_in1k", 2048, f"resnet152@{file}")
    first, crop = backbone.transform_json["frame"]
    assert (first["size"], first["interpolation"], crop["height"]) == (256, "bilinear", 224)


def test_an_untagged_file_says_which_transform_it_takes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mine.pth"
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), file)
    with caplog.at_level(logging.WARNING):
        assert load_backbone(f"timm:resnet18@{file}").name == "timm:resnet18"
        assert "mine.pth: it is not known which weights of resnet18 these are" in caplog.text
        caplog.clear()
        load_backbone(f"timm:resnet18.tv_in1k@{file}")
        assert not caplog.records


@pytest.mark.parametrize("named", ["", "test_vit"])
def test_a_folder_as_published_on_a_hub(named: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False).eval()
    folder = tmp_path / "my_vit"
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    prepared = {"input_size": [3, 160, 160], "interpolation": "bilinear", "crop_pct": 0.8, "mean": [0.1, 0.2, 0.3],
                "std": [0.4, 0.5, 0.6], "num_classes": 1000, "classifier": "head"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": prepared}))
    backbone = load_backbone(f"timm:{named}@{folder}" if named else f"timm:{folder}")
    pictures = [frame(240, 320, 1), frame(181, 260, 2)]
    model.reset_classifier(0)
    config = resolve_data_config(prepared)
    assert backbone.name == f"timm:{named or 'my_vit'}"
    assert_same(features(backbone, pictures), timm_features(model, config, pictures))


def test_a_folder_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit2", "pretrained_cfg": {}}))
    with pytest.raises(UsageError, match="says 'test_vit2'"):
        load_backbone(f"timm:test_vit@{tmp_path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet1522", r"timm has no model 'resnet1522' \(did you mean .*resnet152"),
        ("timm:resnet152.imagenet99", "choose one of .*tv_in1k"),
        ("timm:", "timm has no model"),
    ],
)
def test_wrong_names_are_told(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(name)


def test_a_half_fitting_file_is_refused(tmp_path: Path) -> None:
    """timm itself would load it and leave the rest random."""
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    torch.save({key: value for key, value in state.items() if "blocks.1" not in key}, tmp_path / "half.pth")
    with pytest.raises(UsageError, match=r"half\.pth: cannot be loaded .* lacks blocks\.1"):
        load_backbone(f"timm:test_vit@{tmp_path / 'half.pth'}")


def test_a_model_that_does_not_pool_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "vit.pth")
    folder = tmp_path / "unpooled"
    folder.mkdir()
    (tmp_path / "vit.pth").rename(folder / "vit.pth")
    described = {
        "architecture": "test_vit",
        "model_args": {"global_pool": ""},
        "pretrained_cfg": {"classifier": "head"},
    }
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match="does not pool"):
        load_backbone(f"timm:{folder}")
