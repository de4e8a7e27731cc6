"""torchvision's image and video models, saved and loaded by path as a user would."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import get_model, get_model_weights

from supportset.extract.backbones import load_backbone
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import assert_same, features
from tests.extract.backbones.frames import frame, video

pytestmark = pytest.mark.slow


def randomised(name: str, **options: object) -> nn.Module:
    """A model with random weights and random batch statistics, so that every entry of the file matters."""
    torch.manual_seed(0)
    model = get_model(name, weights=None, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def before_the_classifier(model: nn.Module, classifier: str, inputs: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    model.get_submodule(classifier).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.inference_mode():
        model(inputs)
    return seen[0].flatten(1)


@pytest.mark.parametrize(
    ("name", "classifier", "dim"),
    [("resnet18", "fc", 512), ("mobilenet_v3_small", "classifier.3", 1024), ("squeezenet1_1", None, 512)],
)
def test_image_models(name: str, classifier: str | None, dim: int, tmp_path: Path) -> None:
    model = randomised(name)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    backbone = load_backbone(f"torchvision:{name}@{tmp_path / 'mine.pth'}")
    pictures = [frame(240, 320, 1), frame(301, 200, 2)]
    transform = get_model_weights(name).DEFAULT.transforms()
    inputs = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
    if classifier is None:  # SqueezeNet's classifier is a convolution before the pooling
        model.classifier[1] = nn.Identity()
        with torch.inference_mode():
            expected = model(inputs)
    else:
        expected = before_the_classifier(model, classifier, inputs)
    assert (backbone.dim, backbone.window, backbone.name) == (dim, 1, f"torchvision:{name}")
    assert_same(features(backbone, pictures), expected)


def test_video_models_take_windows(tmp_path: Path) -> None:
    name = "mc3_18"
    model = randomised(name)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "mine.pth")
    backbone = load_backbone(f"torchvision:{name}@{tmp_path / 'mine.pth'}")
    assert (backbone.dim, backbone.window) == (512, 16)
    clips = [video(16, 256, 342)]  # halved exactly: torch and we agree on every tie
    transform = get_model_weights(name).DEFAULT.transforms()
    inputs = torch.stack([transform(torch.from_numpy(clip).permute(0, 3, 1, 2)) for clip in clips])
    assert_same(features(backbone, clips), before_the_classifier(model, "fc", inputs))


def test_the_transform_is_that_of_the_named_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mine.pth"
    torch.save(randomised("resnet50").state_dict(), file)
    steps = {}
    with caplog.at_level(logging.WARNING):
        for name in ("resnet50/IMAGENET1K_V1", "resnet50/IMAGENET1K_V2"):
            backbone = load_backbone(f"torchvision:{name}@{file}")
            assert backbone.name == f"torchvision:{name}"
            assert backbone.weights == "mine.pth"
            steps[name] = backbone.transform_json["frame"][0]["size"]
        assert not caplog.records
        assert steps == {"resnet50/IMAGENET1K_V1": 256, "resnet50/IMAGENET1K_V2": 232}
        unnamed = load_backbone(f"torchvision:resnet50@{file}")
        assert unnamed.transform_json["frame"][0]["size"] == 232
        assert "as for IMAGENET1K_V2" in caplog.text
    published = tmp_path / "resnet50-0676ba61.pth"  # the name under which V1 is published
    file.rename(published)
    assert load_backbone(f"torchvision:resnet50@{published}").transform_json["frame"][0]["size"] == 256


def test_densenet_files_with_their_old_names_load(tmp_path: Path) -> None:
    model = randomised("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in model.state_dict().items()
    }
    assert old.keys() != model.state_dict().keys()
    torch.save(old, tmp_path / "old.pth")
    assert load_backbone(f"torchvision:densenet121@{tmp_path / 'old.pth'}").dim == 1024


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet81", r"no classification model 'resnet81' \(did you mean resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classification model"),
        ("torchvision:resnet18/IMAGENET22K", "choose one of IMAGENET1K_V1"),
        ("torchvision:", "no classification model"),
    ],
)
def test_wrong_names_are_told(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(name)


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(randomised("resnet18").state_dict(), tmp_path / "small.pth")
    with pytest.raises(
        UsageError, match=r"small\.pth: cannot be loaded as the weights of backbone torchvision:resnet34"
    ):
        load_backbone(f"torchvision:resnet34@{tmp_path / 'small.pth'}")
