"""The parts of the shared head: normalisation over unpadded positions, and nothing that looks at padding."""

from __future__ import annotations

import pytest
import torch

from supportset.train.model.ops.padding import Positions
from supportset.train.model.sequence_head import InputProjection, MaskedBatchNorm, SequenceHead

LENGTHS = torch.tensor([4, 1, 3])
MASK = torch.arange(4)[None] < LENGTHS[:, None]


def values(width: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, width, generator=generator, dtype=dtype) * 3 + 5


REAL = MASK.flatten()


def flat(width: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return values(width, seed, dtype).flatten(0, 1)


def test_batch_norm_is_that_of_the_unpadded_positions_alone() -> None:
    marked, packed, theirs = (kind(6).double() for kind in (MaskedBatchNorm, MaskedBatchNorm, torch.nn.BatchNorm1d))
    with torch.no_grad():
        for norm in (marked, packed, theirs):
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
    for training in (True, True, True, False):
        batch = flat(seed=int(training))
        batch[~REAL] = 1e6
        for norm in (marked, packed, theirs):
            norm.train(training)
        expected, normalised = theirs(batch[REAL]), marked(batch, REAL)
        torch.testing.assert_close(normalised[REAL], expected)
        assert (normalised[~REAL] == 0).all()
        torch.testing.assert_close(packed(batch[REAL]), expected)
        for norm in (marked, packed):
            torch.testing.assert_close(norm.running_mean, theirs.running_mean)
            torch.testing.assert_close(norm.running_var, theirs.running_var)


def test_batch_norm_of_one_position_or_none_is_its_bias() -> None:
    norm = MaskedBatchNorm(6)
    for positions in (1, 0):
        assert torch.equal(norm(torch.randn(positions, 6)), norm.bias.expand(positions, 6))
    assert torch.isfinite(norm.running_var).all()


@pytest.mark.parametrize("real", [REAL, None])
def test_batch_norm_gradients(real: torch.Tensor | None) -> None:
    norm = MaskedBatchNorm(3).double()
    assert torch.autograd.gradcheck(lambda batch: norm(batch, real), flat(3).requires_grad_())


@pytest.mark.parametrize("real", [REAL, None])
def test_batch_norm_keeps_a_small_spread_around_a_large_mean(real: torch.Tensor | None) -> None:
    norm = MaskedBatchNorm(6)
    batch = flat(dtype=torch.float32) * 0.01 + 1000
    spread = norm(batch, real)[slice(None) if real is None else real].std(0, unbiased=False)
    torch.testing.assert_close(spread, torch.ones(6), rtol=0.1, atol=0)


@pytest.mark.parametrize("marked", [True, False])
def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(marked: bool) -> None:
    whole = MaskedBatchNorm(6).double()
    real = values()[MASK]
    expected = whole(real)
    halves = (values()[0], MASK[0]) if marked else (real[:4], None)

    # What a sum over processes gives: each half's own sums and those of the other half.
    other = real[4:]
    other_sums = torch.cat([other.sum(0), torch.tensor([float(len(other))], dtype=torch.float64)])
    other_squares = (other - real.mean(0)).square().sum(0)
    part = MaskedBatchNorm(6).double()
    part.reduce = lambda sums: sums + (other_sums if len(sums) == 7 else other_squares)
    torch.testing.assert_close(part(*halves), expected[:4])
    torch.testing.assert_close(part.running_var, whole.running_var)


@pytest.mark.parametrize("real", [REAL, None])
def test_batch_norm_of_half_precision_is_computed_in_float32(real: torch.Tensor | None) -> None:
    batch = flat(dtype=torch.float32)
    full = MaskedBatchNorm(6)(batch, real)
    half = MaskedBatchNorm(6)(batch.bfloat16(), real)
    assert half.dtype == torch.bfloat16
    # A mean in bfloat16 would be off by 5 * 2**-9; the values themselves are.
    torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("local", ["convolution", "gru", "none"])
def test_all_positions_give_what_the_real_ones_do(local: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU: nothing is packed, padded positions are computed and cleared."""
    torch.manual_seed(0)
    project = InputProjection(5, 8, norm, 0.0).double()
    head = SequenceHead(8, 2, 2, norm, 0.0, local=local, kernel=3).double()
    parameters = [*project.parameters(), *head.parameters()]
    found = []
    for of in (Positions.of, lambda mask: Positions(None, mask)):
        monkeypatch.setattr(Positions, "of", of)
        batch = values(5)
        batch[~MASK] = torch.nan
        _, codes, mask = head(project(batch, MASK), MASK)
        loss = (codes * torch.arange(codes.numel()).view_as(codes).cos()).sum()
        found.append([codes, *torch.autograd.grad(loss, parameters)])
        assert (codes[~mask] == 0).all()
    for packed, whole in zip(*found, strict=True):
        torch.testing.assert_close(packed, whole)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("local", ["convolution", "gru", "none"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_padding_changes_nothing(norm: str, local: str, training: bool) -> None:
    torch.manual_seed(0)
    project = InputProjection(5, 8, norm, 0.0).train(training)
    head = SequenceHead(8, 2, 2, norm, 0.0, local=local, kernel=3).train(training)
    batch = values(5, dtype=torch.float32)
    _, expected, mask = head(project(batch * MASK[..., None], MASK), MASK)
    assert torch.equal(mask, torch.cat([torch.ones(3, 1, dtype=torch.bool), MASK], 1))
    assert (expected[~mask] == 0).all()

    # Whatever stands in the padding, NaN included, and however much padding there is.
    dirty = torch.cat([batch, torch.full((3, 2, 5), torch.nan)], 1)
    longer = torch.cat([MASK, torch.zeros(3, 2, dtype=torch.bool)], 1)
    dirty[~longer] = torch.nan
    project.zero_grad()
    _, found, _ = head(project(dirty, longer), longer)
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
        forwards, backwards = head(batch, mask)[0], head(batch.flip(1), mask)[0]
        assert torch.allclose(forwards, backwards, atol=1e-6) is not differs


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    head = SequenceHead(8, 1, 2, "layer", 0.5, local="convolution")
    batch = values(8, dtype=torch.float32)
    assert not torch.equal(head(batch, MASK)[1], head(batch, MASK)[1])
    head.eval()
    assert torch.equal(head(batch, MASK)[1], head(batch, MASK)[1])
