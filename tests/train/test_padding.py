"""Positions of padded sequences, packed and apart again, with their neighbours, beside plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from supportset.train.model.ops.padding import Positions

LENGTHS = (3, 0, 5, 1)
MASK = torch.arange(6)[None] < torch.tensor(LENGTHS)[:, None]


def values(width: int = 4) -> Tensor:
    drawn = torch.randn(*MASK.shape, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.masked_fill(~MASK[..., None], 0.0)


def both() -> list[Positions]:
    return [Positions.of(MASK), Positions(None, MASK)]


def test_a_cpu_computes_on_real_positions_alone() -> None:
    packed = Positions.of(MASK).unpad(values())
    assert torch.equal(packed, values()[MASK])
    assert Positions.of(MASK).real is None


@pytest.mark.parametrize("positions", both())
def test_there_and_back(positions: Positions) -> None:
    assert torch.equal(positions.pad(positions.unpad(values())), values())
    heads = positions.heads(positions.unpad(values()), 2)
    assert torch.equal(heads[:, 1], values()[..., 2:])
    assert torch.equal(positions.join_heads(heads), positions.unpad(values()))


@pytest.mark.parametrize("positions", both())
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_windows_are_those_of_a_convolution(kernel: int, positions: Positions) -> None:
    layer = nn.Conv1d(4, 3, kernel, padding="same").double()
    wide = positions.windows(positions.unpad(values()), kernel)
    ours = wide @ layer.weight.transpose(1, 2).flatten(1).T + layer.bias
    theirs = layer(values().transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(positions.pad(ours)[MASK], theirs[MASK])


@pytest.mark.parametrize("positions", both())
def test_recurrence_is_each_sequence_by_itself(positions: Positions) -> None:
    torch.manual_seed(0)
    layer = nn.GRU(4, 4, batch_first=True).double()
    ours = positions.pad(positions.recurrence(layer, positions.unpad(values())))
    for sequence, length, found in zip(values(), LENGTHS, ours, strict=True):
        if length:
            torch.testing.assert_close(found[:length], layer(sequence[None, :length])[0][0])
