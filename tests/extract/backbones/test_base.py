"""What every backbone has from the base class, on the smallest one imaginable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.encoder import hash_state
from supportset.extract.backbones.transforms import FrameTransform, Resize
from supportset.store.errors import UsageError


class Mean(Backbone):
    """Colour means through a linear layer."""

    def encode(self, pixels: Tensor) -> Tensor:
        return self.model(pixels.mean((-2, -1)).reshape(len(pixels), -1))


def mean_backbone(window: int = 1, dim: int = 5) -> Mean:
    torch.manual_seed(0)
    return Mean(
        nn.Linear(3 * window, 5),
        name="mean:5",
        weights="random",
        dim=dim,
        window=window,
        transform=FrameTransform((Resize(8, 6),), 8, 6),
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.25, 2.0),
        layer="linear",
        pooling="mean",
    )


@pytest.mark.parametrize("window", [1, 4])
def test_forward_normalises_channel_by_channel(window: int) -> None:
    backbone = mean_backbone(window)
    shape = (3, 8, 6, 3) if window == 1 else (3, window, 8, 6, 3)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
    features = backbone.forward(frames)
    pixels = (frames.double() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.25, 2.0])
    expected = backbone.model.double()(pixels.mean((-3, -2)).reshape(3, -1))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.double(), expected, atol=1e-6, rtol=0)


def test_half_precision_stays_within_its_tolerance_and_answers_in_float32() -> None:
    backbone = mean_backbone()
    frames = torch.randint(0, 256, (16, 8, 6, 3), dtype=torch.uint8)
    full = backbone.forward(frames)
    backbone.to("cpu", "bf16")
    half = backbone.forward(frames)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert (half - full).abs().max() < 0.02 * full.abs().max()
    backbone.to("cpu", "fp32")
    torch.testing.assert_close(backbone.forward(frames), full, atol=0, rtol=0)


def test_empty_batch_gives_no_features() -> None:
    assert mean_backbone().forward(torch.zeros(0, 8, 6, 3, dtype=torch.uint8)).shape == (0, 5)


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(1, 3, 8, 6, dtype=torch.uint8),
        torch.zeros(1, 8, 6, 3),
        torch.zeros(1, 2, 8, 6, 3, dtype=torch.uint8),
    ],
)
def test_wrong_frames_are_refused(frames: Tensor) -> None:
    with pytest.raises(ValueError, match="mean:5 takes"):
        mean_backbone().forward(frames)


def test_a_wrong_dim_never_reaches_the_store() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5\)"):
        mean_backbone(dim=6).forward(torch.zeros(1, 8, 6, 3, dtype=torch.uint8))


def test_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="fp32, bf16, fp16"):
        mean_backbone().to("cpu", "int8")


def test_hash_sees_names_types_shapes_and_values_but_not_order_or_layout() -> None:
    state = {"b": torch.arange(12.0).view(3, 4), "a": torch.tensor(7)}
    same = {"a": torch.tensor(7), "b": torch.arange(12.0).view(3, 4).t().contiguous().t()}
    assert hash_state(state) == hash_state(same)
    assert hash_state(state).startswith("xxh3-128:")
    others = [
        {"c": state["b"], "a": state["a"]},
        {"b": state["b"].view(4, 3), "a": state["a"]},
        {"b": state["b"].double(), "a": state["a"]},
        {"b": state["b"] + 1, "a": state["a"]},
        {"b": state["b"]},
    ]
    assert len({hash_state(other) for other in [state, *others]}) == 6


def test_hash_does_not_change_with_device_layout_or_precision() -> None:
    convolution = nn.Conv2d(3, 8, 3)
    before = hash_state(convolution.state_dict())
    assert hash_state(convolution.to(memory_format=torch.channels_last).state_dict()) == before
