"""T5 computed on the tokens that are there, not on padding: its encoder, and its decoder under teacher forcing.

Captions of a batch differ in length: padded to the longest, some four positions in ten are nothing. Linear maps,
normalisations and dropout look at one position at a time, so here they see the real ones alone, packed one after
another; only the attention has them apart by caption. The weights are the library's modules, called one by one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supportset.train.model.ops.dropout import dropout
from supportset.train.model.ops.padding import Positions


def encode_packed(stack: Any, tokens: Tensor, positions: Positions, mask: Tensor) -> Tensor:
    """The encoder's output at the positions that are computed.

    Parameters
    ----------
    stack : Any
        ``T5Stack``, an encoder.
    tokens : Tensor
        (N, L) long; of padded ones anything.
    positions : Positions
        R of (N, L); in each caption the real ones come first.
    mask : Tensor
        (N, L) bool, true where a token is real.

    Returns
    -------
    Tensor
        (R, d) float.
    """
    rate, training = _dropout(stack)
    bias = _position_bias(stack, tokens.shape[1]) + _hidden_where(~open_rows(mask))
    hidden = _embed(stack, tokens, positions)
    for block in stack.block:
        own, forward = block.layer
        hidden = _attend_to_own(own, hidden, positions, bias, rate, training)
        hidden = _feed_forward(forward, hidden, rate, training)
    return dropout(stack.final_layer_norm(hidden), rate, training)


def decode_packed(stack: Any, tokens: Tensor, positions: Positions, codes: Tensor, mask: Tensor) -> Tensor:
    """The decoder's output at the real positions.

    Parameters
    ----------
    stack : Any
        ``T5Stack``, a decoder.
    tokens : Tensor
        (N, L) long, what each position reads; of padded ones anything.
    positions : Positions
        R of (N, L), the real ones; in each caption they come first.
    codes : Tensor
        (N, M, d) float, what it attends to.
    mask : Tensor
        (N, M) bool, at least one true in each row.

    Returns
    -------
    Tensor
        (R, d) float.

    Notes
    -----
    Attention goes to earlier positions only, so no real position would see padding after its caption's end.
    """
    rate, training = _dropout(stack)
    length = tokens.shape[1]
    future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
    earlier = _position_bias(stack, length).masked_fill(future, -torch.inf)
    there = _hidden_where(~mask).to(earlier)
    hidden = _embed(stack, tokens, positions)
    for block in stack.block:
        own, cross, forward = block.layer
        hidden = _attend_to_own(own, hidden, positions, earlier, rate, training)

        attention = cross.EncDecAttention
        heads = attention.n_heads
        query = positions.heads(attention.q(cross.layer_norm(hidden)), heads)
        key, value = (each(codes).unflatten(-1, (heads, -1)).transpose(1, 2) for each in (attention.k, attention.v))
        mixed = _attend(query, key, value, there, rate, training)
        hidden = hidden + dropout(attention.o(positions.join_heads(mixed)), rate, training)
        hidden = _feed_forward(forward, hidden, rate, training)
    return dropout(stack.final_layer_norm(hidden), rate, training)


def open_rows(mask: Tensor) -> Tensor:
    """Open every position of the rows that have none: attention over nothing is not a number."""
    return mask | ~mask.any(1, keepdim=True)


def _dropout(stack: Any) -> tuple[float, bool]:
    return float(stack.config.dropout_rate), bool(stack.training)


def _position_bias(stack: Any, length: int) -> Tensor:
    """What the distance of two tokens adds to the scores of every layer: (1, heads, L, L)."""
    bias: Tensor = stack.block[0].layer[0].SelfAttention.compute_bias(length, length, device=stack.device)
    return bias


def _hidden_where(closed: Tensor) -> Tensor:
    """(N, K) bool as what is added to the scores: (N, 1, 1, K) float."""
    return torch.zeros(closed.shape, device=closed.device).masked_fill(closed, -torch.inf)[:, None, None, :]


def _embed(stack: Any, tokens: Tensor, positions: Positions) -> Tensor:
    embedded = stack.embed_tokens(positions.unpad(tokens.unsqueeze(2)).squeeze(1))
    return dropout(embedded, *_dropout(stack))


def _attend_to_own(
    layer: Any, hidden: Tensor, positions: Positions, bias: Tensor, rate: float, training: bool
) -> Tensor:
    attention, values = layer.SelfAttention, layer.layer_norm(hidden)
    query, key, value = (
        positions.heads(each(values), attention.n_heads) for each in (attention.q, attention.k, attention.v)
    )
    mixed = _attend(query, key, value, bias, rate, training)
    return hidden + dropout(attention.o(positions.join_heads(mixed)), rate, training)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, rate: float, training: bool) -> Tensor:
    """T5's attention: the scores are not scaled."""
    if query.is_cuda:
        bias = bias.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, bias, rate if training else 0.0, scale=1.0)
    weights = (query @ key.transpose(2, 3) + bias).softmax(-1)
    return dropout(weights, rate, training).to(value.dtype) @ value


def _feed_forward(layer: Any, hidden: Tensor, rate: float, training: bool) -> Tensor:
    """The feed-forward part, gated in T5 1.1."""
    module, values = layer.DenseReluDense, layer.layer_norm(hidden)
    if hasattr(module, "wi_0"):
        values = module.act(module.wi_0(values)) * module.wi_1(values)
    else:
        values = module.act(module.wi(values))
    return hidden + dropout(module.wo(dropout(values, rate, training)), rate, training)
