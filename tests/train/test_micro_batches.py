"""A batch in parts gives the losses and the gradients of the whole, and computes one part at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from supportset.store.errors import UsageError
from supportset.train.loop.training import train
from supportset.train.model.memory_bank import MemoryBank
from supportset.train.model.ops.micro_batches import in_micro_batches
from tests.train.small_models import small_batch, small_config, small_model
from tests.train.small_store import config, plant

pytestmark = pytest.mark.slow


def gradients(parts: int, captioning: str, **sections: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    settings = small_config(support={"captioning": captioning}, optim={"micro_batches": parts}, **sections)
    model = small_model(settings).double()
    batch = small_batch(model, lengths=[5, 2, 3, 4, 1], caption_clip=[0, 0, 1, 2, 3, 4])
    batch.features = batch.features.double()
    bank = None
    if captioning in ("full", "cross"):
        bank = MemoryBank(4, dim=16, width=16, positions=6, dtype=torch.float64)
        other = small_batch(model, seed=3)
        other.features = other.features.double()
        with torch.no_grad():
            bank.add(["x", "y", "z"], model(other).codes, 0)
    losses = model(batch, bank=bank, step=1)
    losses.total.backward()
    return losses.total.detach(), {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("captioning", ["none", "identity", "full", "hybrid", "cross"])
@pytest.mark.parametrize("parts", [2, 3, 9])
def test_gradients_are_those_of_the_whole_batch(captioning: str, parts: int) -> None:
    whole, found = gradients(1, captioning), gradients(parts, captioning)
    # T5's root mean square is taken in float32 by the library: that bounds the precision here.
    torch.testing.assert_close(found[0], whole[0], rtol=1e-6, atol=1e-8)
    assert found[1].keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_one_part_is_computed_at_a_time_and_once_more_for_the_backward_pass() -> None:
    model = small_model(small_config(optim={"micro_batches": 3}))
    seen: list[tuple[str, int]] = []
    for name in ("video", "text", "decoder"):
        part = getattr(model, name)
        part.register_forward_pre_hook(lambda module, inputs, name=name: seen.append((name, len(inputs[0]))))
    losses = model(small_batch(model, lengths=[5, 2, 3, 4, 1], caption_clip=[0, 0, 1, 2, 3, 4]))
    forward = [("video", 2), ("video", 2), ("video", 1), *[("text", 2)] * 3, *[("decoder", 2)] * 3]
    assert seen == forward
    losses.total.backward()
    assert sorted(seen[9:]) == sorted(forward)
    seen.clear()
    with torch.no_grad():
        model(small_batch(model))
    assert seen == [("video", 3), ("text", 6), ("decoder", 6)]


def test_a_part_is_done_with_before_the_next_is_computed_again() -> None:
    events: list[str] = []

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
            events.append("forward")
            context.save_for_backward(value)
            return value * 2

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            assert context.saved_tensors[0].shape == (2, 4)  # asking for it has the part computed again
            events.append("backward")
            return gradient * 2

    weight = torch.randn(4, 4, requires_grad=True)
    (found,) = in_micro_batches(lambda rows: (Noted.apply(rows @ weight),), 4, torch.randn(8, 4))
    assert events == ["forward"] * 4
    found.sum().backward()
    assert events[4:] == ["forward", "backward"] * 4


def test_dropout_is_the_same_in_both_passes() -> None:
    torch.manual_seed(0)
    drop = torch.nn.Dropout(0.5)
    values = torch.ones(6, 50, requires_grad=True)
    (found,) = in_micro_batches(lambda rows: (drop(rows),), 3, values)
    found.sum().backward()
    assert torch.equal(values.grad, found.detach())


def test_training_in_parts_finds_the_clips(tmp_path: Path) -> None:
    root = plant(tmp_path / "store").root
    setting = config(support={"bank": 64}, optim={"epochs": 3, "micro_batches": 4})
    result = train(setting, root, tmp_path / "run", device="cpu")
    assert result.best["validation"]["t2v/R@1"] > 60


def test_batch_norm_is_refused() -> None:
    for section in ("video", "text"):
        sections = {section: {"norm": "batch"}}
        if section == "text":
            sections[section]["head"] = "gru"
        with pytest.raises(UsageError, match=rf"optim.micro_batches = 2 needs {section}.norm = 'layer'"):
            small_config(optim={"micro_batches": 2}, **sections)
