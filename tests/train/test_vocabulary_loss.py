"""The fused projection and cross entropy beside PyTorch's two functions, in value and gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supportset.train.model.ops import vocabulary_loss as module
from supportset.train.model.ops.vocabulary_loss import vocabulary_loss


def case(rows: int = 7, vocabulary: int = 11, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 5, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, 5, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, vocabulary, (rows,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), labels, reduction="none")


@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
def test_value_and_gradient_are_the_plain_ones(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._ROWS, "cpu", at_once)
    hidden, weight, labels = case()
    factors = torch.linspace(-1.0, 2.0, len(labels), dtype=torch.float64)  # each row has a gradient of its own
    found = []
    for function in (vocabulary_loss, plain):
        losses = function(hidden, weight, labels)
        found.append((losses, *torch.autograd.grad((losses * factors).sum(), (hidden, weight))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._ROWS, "cpu", 3)
    hidden, weight, labels = case()
    assert torch.autograd.gradcheck(lambda first, second: vocabulary_loss(first, second, labels), (hidden, weight))


def test_labels_of_vanishing_likelihood_have_a_finite_loss() -> None:
    hidden = torch.tensor([[200.0], [-200.0], [0.0]], requires_grad=True)
    weight, labels = torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([1, 0, 2])
    losses = vocabulary_loss(hidden, weight, labels)
    torch.testing.assert_close(losses, torch.tensor([400.0, 400.0, math.log(3.0)]))
    losses.sum().backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad.squeeze(1), torch.tensor([2.0, -2.0, 0.0]))


def test_a_value_that_is_not_finite_is_not_hidden() -> None:
    hidden, weight, labels = case()
    losses = vocabulary_loss(hidden.detach().index_fill(0, torch.tensor([2]), torch.nan), weight, labels)
    assert losses.isnan().tolist() == [row == 2 for row in range(len(labels))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_as_near_as_the_plain_way(dtype: torch.dtype) -> None:
    hidden, weight, labels = case(40, 300, torch.float32)
    exact = torch.autograd.grad(plain(hidden, weight, labels).mean(), (hidden, weight))
    losses, gradients = {}, {}
    for name, function in (("plain", plain), ("ours", vocabulary_loss)):
        with torch.autocast("cpu", dtype=dtype):
            losses[name] = function(hidden, weight, labels)
        gradients[name] = torch.autograd.grad(losses[name].mean(), (hidden, weight))
    assert losses["ours"].dtype == torch.float32
    torch.testing.assert_close(losses["ours"], losses["plain"])
    for ours, theirs, true in zip(gradients["ours"], gradients["plain"], exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - true).abs().max() <= 1.5 * (theirs - true).abs().max()


def test_no_rows() -> None:
    hidden, weight, labels = case()
    losses = vocabulary_loss(hidden[:0], weight, labels[:0])
    assert losses.shape == (0,)
    assert not torch.autograd.grad(losses.sum(), weight)[0].any()


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    hidden, weight, labels = case()
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    vocabulary_loss(hidden, weight, labels).sum().backward()
    assert (hidden.grad is None, weight.grad is None) == (frozen == "hidden", frozen == "weight")


def test_without_gradients_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._ROWS, "cpu", 2)
    hidden, weight, labels = case()
    learnt = vocabulary_loss(hidden, weight, labels)
    with torch.no_grad():
        judged = vocabulary_loss(hidden, weight, labels)
    assert learnt.requires_grad
    assert not judged.requires_grad
    assert torch.equal(learnt, judged)
    saved: Any = learnt.grad_fn
    assert [each.shape for each in saved.saved_tensors] == [hidden.shape, weight.shape, (len(hidden), len(weight))]
