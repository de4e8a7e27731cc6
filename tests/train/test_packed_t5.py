"""The packed encoder and decoder beside the library's own stacks on the same weights: values, gradients, padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from supportset.train.model.ops.packed_t5 import decode_packed, encode_packed
from supportset.train.model.ops.padding import Positions
from tests.train.small_models import save_small_t5

DRAWS = 200
VERSIONS = ["1.0", "1.1"]  # the second has a gated feed-forward part


def case(lengths: list[int], codes: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    tokens = torch.randint(1, 40, real.shape, generator=generator)
    there = torch.arange(codes)[None] < torch.tensor([1 + row % codes for row in range(len(lengths))])[:, None]
    memory = torch.randn(len(lengths), codes, 16, generator=generator, dtype=torch.float64)
    return tokens, real, memory, there


def packed(real: Tensor) -> Positions:
    return Positions(real.flatten().nonzero().squeeze(1), real)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("codes", [1, 4])
def test_values_and_gradients_equal_the_librarys(version: str, codes: int, tmp_path: Path) -> None:
    stack = save_small_t5(tmp_path, version).double().decoder
    tokens, real, memory, there = case([5, 1, 9, 3], codes)
    memory.requires_grad_(True)
    wanted = [memory, *stack.parameters()]
    theirs = stack(
        input_ids=tokens, encoder_hidden_states=memory, encoder_attention_mask=there.long(), use_cache=False
    ).last_hidden_state[real]
    ours = decode_packed(stack, tokens, packed(real), memory, there)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    factors = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for mine, library in zip(
        torch.autograd.grad((ours * factors).sum(), wanted),
        torch.autograd.grad((theirs * factors).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, library, rtol=1e-5, atol=1e-6)  # the library's norms compute in float32


@pytest.mark.parametrize("version", VERSIONS)
def test_the_encoder_equals_the_librarys(version: str, tmp_path: Path) -> None:
    stack = save_small_t5(tmp_path, version).double().encoder
    tokens, real, _, _ = case([5, 1, 9, 3])
    wanted = list(stack.parameters())
    theirs = stack(input_ids=tokens, attention_mask=real.long()).last_hidden_state[real]
    factors = torch.randn(theirs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad((theirs * factors).sum(), wanted)
    for positions in (packed(real), Positions(None, real)):
        ours = positions.pad(encode_packed(stack, tokens.masked_fill(~real, 39), positions, real))[real]
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        for mine, library in zip(torch.autograd.grad((ours * factors).sum(), wanted), expected, strict=True):
            torch.testing.assert_close(mine, library, rtol=1e-5, atol=1e-6)


def test_the_encoder_takes_a_caption_without_a_token(tmp_path: Path) -> None:
    stack = save_small_t5(tmp_path).double().encoder
    tokens, real, _, _ = case([3, 2])
    real[1] = False
    for positions in (packed(real), Positions(None, real)):
        encoded = positions.pad(encode_packed(stack, tokens, positions, real))
        assert torch.isfinite(encoded).all()
        encoded[real].sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in stack.parameters())


def test_with_dropout_it_is_the_librarys_on_average(tmp_path: Path) -> None:
    stack = save_small_t5(tmp_path).decoder.train()
    tokens, real, memory, there = case([5, 2])
    memory = memory.float()
    torch.manual_seed(0)
    with torch.no_grad():
        ours = torch.stack([decode_packed(stack, tokens, packed(real), memory, there) for _ in range(DRAWS)])
        theirs = torch.stack(
            [
                stack(
                    input_ids=tokens, encoder_hidden_states=memory, encoder_attention_mask=there.long(), use_cache=False
                ).last_hidden_state[real]
                for _ in range(DRAWS)
            ]
        )
    assert not torch.equal(ours[0], ours[1])
    error = ((ours.var(0) + theirs.var(0)) / DRAWS).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()
    assert ours.var(0).mean().item() == pytest.approx(theirs.var(0).mean().item(), rel=0.15)


def test_what_stands_in_padding_is_not_looked_at(tmp_path: Path) -> None:
    stack = save_small_t5(tmp_path).double().decoder
    tokens, real, memory, there = case([5, 1, 3])
    found = decode_packed(stack, tokens, packed(real), memory, there)
    dirty = tokens.masked_fill(~real, 39)
    assert torch.equal(
        decode_packed(stack, dirty, packed(real), memory.masked_fill(~there[..., None], torch.pi), there), found
    )


def test_under_autocast(tmp_path: Path) -> None:
    stack = save_small_t5(tmp_path).decoder.train()
    tokens, real, memory, there = case([5, 1, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decode_packed(stack, tokens, packed(real), memory.float(), there)
    found.sum().backward()
    exact = decode_packed(stack.eval(), tokens, packed(real), memory.float(), there)
    assert found.shape == exact.shape
    assert torch.isfinite(found).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            decode_packed(stack, tokens, packed(real), memory.float(), there).float(), exact, rtol=0.1, atol=0.1
        )
