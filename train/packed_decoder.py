"""A T5 decoder under teacher forcing that computes on the tokens that are there, not on padding.

Captions of a batch differ in length: padded to the longest, some four positions in ten are nothing. Linear maps,
normalisations and dropout look at one position at a time, so here they see the real ones alone, packed one after
another; only the attention has them apart by caption. The weights are the library's modules, called one by one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from train.dropout import dropout


def decode_packed(stack: Any, tokens: Tensor, rows: Tensor, codes: Tensor, mask: Tensor) -> Tensor:
    """The decoder's output at the real positions.

    Parameters
    ----------
    stack : ``T5Stack``, a decoder
    tokens : (N, L) long, what each position reads; of padded ones anything
    rows : (R,) long, the real positions, counted through (N, L); in each caption they come first
    codes : (N, M, d) float, what it attends to
    mask : (N, M) bool, at least one true in each row

    Returns
    -------
    Tensor
        (R, d) float, in the order of ``rows``.

    Notes
    -----
    Attention goes to earlier positions only, so no real position would see padding after its caption's end.
    """
    rate, training = float(stack.config.dropout_rate), stack.training
    captions, length = tokens.shape
    layout = _Layout(rows, captions, length)
    first = stack.block[0].layer[0].SelfAttention
    future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
    earlier = first.compute_bias(length, length, device=tokens.device).masked_fill(future, -torch.inf)
    there = earlier.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None, :]

    hidden = dropout(stack.embed_tokens(tokens.flatten()[rows]), rate, training)
    for block in stack.block:
        own, cross, forward = block.layer
        values = own.layer_norm(hidden)
        attention = own.SelfAttention
        heads = attention.n_heads
        key, value = (layout.apart(each(values), heads) for each in (attention.k, attention.v))
        mixed = _attend(layout.apart(attention.q(values), heads), key, value, earlier, rate, training)
        hidden = hidden + dropout(attention.o(layout.packed(mixed)), rate, training)

        attention = cross.EncDecAttention
        query = layout.apart(attention.q(cross.layer_norm(hidden)), heads)
        key, value = (each(codes).unflatten(-1, (heads, -1)).transpose(1, 2) for each in (attention.k, attention.v))
        mixed = _attend(query, key, value, there, rate, training)
        hidden = hidden + dropout(attention.o(layout.packed(mixed)), rate, training)

        mapped = _feed_forward(forward.DenseReluDense, forward.layer_norm(hidden), rate, training)
        hidden = hidden + dropout(mapped, rate, training)
    return dropout(stack.final_layer_norm(hidden), rate, training)


class _Layout:
    """Real positions packed (R, d), or apart by caption and head (N, heads, L, d / heads), zero where padded."""

    def __init__(self, rows: Tensor, captions: int, length: int) -> None:
        self._rows, self._captions, self._length = rows, captions, length

    def apart(self, values: Tensor, heads: int) -> Tensor:
        padded = values.new_zeros(self._captions * self._length, values.shape[1]).index_copy(0, self._rows, values)
        return padded.view(self._captions, self._length, heads, -1).transpose(1, 2)

    def packed(self, values: Tensor) -> Tensor:
        return values.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, self._rows)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, rate: float, training: bool) -> Tensor:
    """T5's attention: the scores are not scaled."""
    if query.is_cuda:
        bias = bias.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, bias, rate if training else 0.0, scale=1.0)
    weights = (query @ key.transpose(2, 3) + bias).softmax(-1)
    return dropout(weights, rate, training).to(value.dtype) @ value


def _feed_forward(module: Any, values: Tensor, rate: float, training: bool) -> Tensor:
    """The library's feed-forward part, gated in T5 1.1, with our dropout."""
    if hasattr(module, "wi_0"):
        values = module.act(module.wi_0(values)) * module.wi_1(values)
    else:
        values = module.act(module.wi(values))
    mapped: Tensor = module.wo(dropout(values, rate, training))
    return mapped
