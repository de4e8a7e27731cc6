"""The video head: each kind of aggregation, and clips that do not see each other or their padding."""

from __future__ import annotations

import pytest
import torch

from supportset.train.config import VideoConfig
from supportset.train.model.aggregation.max import masked_max
from supportset.train.model.sequence_head import masked_mean
from supportset.train.model.video_encoder import VideoEncoder

LENGTHS = [4, 1, 3]
AGGREGATIONS = ["transformer", "attention", "max", "mean"]


def encoder(aggregation: str, norm: str = "layer", seed: int = 0) -> VideoEncoder:
    torch.manual_seed(seed)
    config = VideoConfig(aggregation=aggregation, width=8, layers=2, heads=2, norm=norm, dropout=0.0)
    return VideoEncoder(config, 5, 7)


def clips(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(4)[None] < torch.tensor(LENGTHS)[:, None]
    return torch.randn(3, 4, 5, generator=generator) * mask[..., None], mask


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_shapes(aggregation: str) -> None:
    features, mask = clips()
    codes = encoder(aggregation)(features, mask)
    # The learned token's output is the first of the codes.
    token = aggregation in ("transformer", "attention")
    assert codes.embedding.shape == (3, 7)
    assert codes.sequence.shape == (3, 4 + token, 8)
    assert codes.mask.sum(1).tolist() == [length + token for length in LENGTHS]
    assert (codes.sequence[~codes.mask] == 0).all()


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_clip_in_a_padded_batch_is_the_clip_alone(aggregation: str, norm: str) -> None:
    model = encoder(aggregation, norm)
    features, mask = clips()
    model(features * 3 + 1, mask)  # gives the running statistics something to hold
    model.eval()
    together = model(features + 9.0 * ~mask[..., None], mask)
    for index, length in enumerate(LENGTHS):
        alone = model(features[index : index + 1, :length], mask[index : index + 1, :length])
        torch.testing.assert_close(together.embedding[index], alone.embedding[0], atol=1e-5, rtol=1e-4)
        count = alone.sequence.shape[1]
        torch.testing.assert_close(together.sequence[index, :count], alone.sequence[0], atol=1e-5, rtol=1e-4)


def test_pooling_is_that_of_the_projected_steps() -> None:
    features, mask = clips()
    for aggregation in ("max", "mean"):
        model = encoder(aggregation).eval()
        codes = model(features, mask)
        for index, length in enumerate(LENGTHS):
            steps = codes.sequence[index, :length]
            pooled = steps.amax(0) if aggregation == "max" else steps.mean(0)
            torch.testing.assert_close(codes.embedding[index], model.embed(pooled))


def test_pooling_of_nothing_is_zero() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    for pool in (masked_max, masked_mean):
        assert torch.equal(pool(torch.ones(1, 3, 2), nothing), torch.zeros(1, 2))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_every_parameter_learns(aggregation: str) -> None:
    model = encoder(aggregation)
    codes = model(*clips())
    (codes.embedding.square().sum() + codes.sequence.pow(3).sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_features_of_another_precision_are_taken() -> None:
    features, mask = clips()
    model = encoder("mean").eval()
    assert torch.equal(model(features.double(), mask).embedding, model(features, mask).embedding)
