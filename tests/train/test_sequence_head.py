"""The parts of the shared head: normalisation over unpadded positions, and nothing that looks at padding."""

from __future__ import annotations

import pytest
import torch

from train.sequence_head import InputProjection, MaskedBatchNorm, SequenceHead

LENGTHS = torch.tensor([4, 1, 3])
MASK = torch.arange(4)[None] < LENGTHS[:, None]


def values(width: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, width, generator=generator, dtype=dtype) * 3 + 5


def test_batch_norm_is_that_of_the_unpadded_positions_alone() -> None:
    ours, theirs = MaskedBatchNorm(6).double(), torch.nn.BatchNorm1d(6).double()
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
    for seed in range(3):
        batch = values(seed=seed)
        batch[~MASK] = 1e6
        normalised = ours(batch, MASK)
        torch.testing.assert_close(normalised[MASK], theirs(batch[MASK]))
        assert (normalised[~MASK] == 0).all()
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(batch, MASK)[MASK], theirs(batch[MASK]))


def test_batch_norm_gradients() -> None:
    norm = MaskedBatchNorm(3).double()
    assert torch.autograd.gradcheck(lambda batch: norm(batch, MASK), values(3).requires_grad_())


def test_batch_norm_keeps_a_small_spread_around_a_large_mean() -> None:
    norm = MaskedBatchNorm(6)
    batch = values(dtype=torch.float32) * 0.01 + 1000
    spread = norm(batch, MASK)[MASK].std(0, unbiased=False)
    torch.testing.assert_close(spread, torch.ones(6), rtol=0.1, atol=0)


def test_batch_norm_over_two_processes_is_that_of_the_whole_batch() -> None:
    whole = MaskedBatchNorm(6).double()
    expected = whole(values(), MASK)
    halves = [(values()[:1], MASK[:1]), (values()[1:], MASK[1:])]

    # What a sum over processes gives: each half's own sums and those of the other half.
    other_sums = torch.cat([(values()[1:] * MASK[1:, :, None]).sum((0, 1)), MASK[1:].sum().double().reshape(1)])
    mean = values()[MASK].mean(0)
    other_squares = ((values()[1:] - mean).square() * MASK[1:, :, None]).sum((0, 1))
    part = MaskedBatchNorm(6).double()
    part.reduce = lambda sums: sums + (other_sums if len(sums) == 7 else other_squares)
    torch.testing.assert_close(part(*halves[0]), expected[:1])
    torch.testing.assert_close(part.running_var, whole.running_var)


def test_batch_norm_of_half_precision_is_computed_in_float32() -> None:
    batch = values(dtype=torch.float32)
    full = MaskedBatchNorm(6)(batch, MASK)
    half = MaskedBatchNorm(6)(batch.bfloat16(), MASK)
    assert half.dtype == torch.bfloat16
    # A mean in bfloat16 would be off by 5 * 2**-9; the values themselves are.
    torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("local", ["convolution", "gru", "none"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_padding_changes_nothing(norm: str, local: str, training: bool) -> None:
    torch.manual_seed(0)
    project = InputProjection(5, 8, norm, 0.0).train(training)
    head = SequenceHead(8, 2, 2, norm, 0.0, local=local, kernel=3).train(training)
    batch = values(5, dtype=torch.float32)
    expected, mask = head(project(batch * MASK[..., None], MASK), MASK)
    assert torch.equal(mask, torch.cat([torch.ones(3, 1, dtype=torch.bool), MASK], 1))
    assert (expected[~mask] == 0).all()

    # Whatever stands in the padding, NaN included, and however much padding there is.
    dirty = torch.cat([batch, torch.full((3, 2, 5), torch.nan)], 1)
    longer = torch.cat([MASK, torch.zeros(3, 2, dtype=torch.bool)], 1)
    dirty[~longer] = torch.nan
    project.zero_grad()
    found, _ = head(project(dirty, longer), longer)
    torch.testing.assert_close(found[:, :5], expected, atol=2e-5, rtol=1e-4)
    assert (found[:, 5:] == 0).all()
    found.square().sum().backward()
    gradients = [parameter.grad for parameter in [*project.parameters(), *head.parameters()]]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("local", ["convolution", "gru"])
def test_order_matters_only_through_the_local_part(local: str) -> None:
    batch, mask = values(8, dtype=torch.float32), torch.ones(3, 4, dtype=torch.bool)
    for kind, differs in ((local, True), ("none", False)):
        torch.manual_seed(0)
        head = SequenceHead(8, 1, 2, "layer", 0.0, local=kind).eval()
        forwards, backwards = head(batch, mask)[0][:, 0], head(batch.flip(1), mask)[0][:, 0]
        assert torch.allclose(forwards, backwards, atol=1e-6) is not differs


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    head = SequenceHead(8, 1, 2, "layer", 0.5, local="convolution")
    batch = values(8, dtype=torch.float32)
    assert not torch.equal(head(batch, MASK)[0], head(batch, MASK)[0])
    head.eval()
    assert torch.equal(head(batch, MASK)[0], head(batch, MASK)[0])
