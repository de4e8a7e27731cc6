"""Dropout from 16 random bits an element: how many are dropped, what the others are scaled by, and the seed."""

from __future__ import annotations

import pytest
import torch

from supportset.train.model.ops.dropout import dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_share_and_scale(rate: float) -> None:
    torch.manual_seed(0)
    values = torch.ones(401, 997)
    dropped = dropout(values, rate)
    spread = (rate * (1 - rate) / values.numel()) ** 0.5
    assert (dropped == 0).double().mean().item() == pytest.approx(rate, abs=5 * spread)
    assert dropped[dropped != 0].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=2**-16 / (1 - rate))
    # No pattern along rows, columns, or the four elements that one random number serves.
    for shares in ((dropped == 0).double().mean(0), (dropped == 0).double().mean(1)):
        assert shares.std() < 1.2 * (rate * (1 - rate) * len(shares) / values.numel()) ** 0.5
    together = (dropped.flatten()[:-1] == 0) & (dropped.flatten()[1:] == 0)
    assert together.double().mean().item() == pytest.approx(rate**2, abs=6 * spread)


def test_gradient_goes_where_the_values_went() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    dropped = dropout(values, 0.4)
    dropped.sum().backward()
    assert values.grad is not None
    assert dropped.dtype == torch.float64
    torch.testing.assert_close(values.grad * values, dropped)
    assert 0 < values.grad.count_nonzero() < values.numel()


def test_it_follows_the_seed() -> None:
    values = torch.ones(100)
    torch.manual_seed(3)
    first, second = dropout(values, 0.5), dropout(values, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(values, 0.5))
    assert not torch.equal(first, second)


def test_evaluation_and_no_rate_change_nothing() -> None:
    values = torch.randn(4)
    state = torch.get_rng_state()
    assert dropout(values, 0.5, training=False) is values
    assert dropout(values, 0.0) is values
    assert torch.equal(torch.get_rng_state(), state)


def test_halves_stay_halves_and_nothing_is_nothing() -> None:
    assert dropout(torch.ones(3, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16
    assert dropout(torch.ones(0, 4), 0.5).shape == (0, 4)
