"""The transformer head that the video side and the text side share, blind to padding.

Every part keeps one invariant: positions that are padded are zero when they
leave it. So a convolution that reaches over the end of a short sequence sees
the same zeros as it would at the end of the tensor, and what stood in the
padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "layer"]
Local = Literal["convolution", "gru", "none"]

FEED_FORWARD = 4  # inner width of the feed-forward part, in widths


def clear_padding(values: Tensor, mask: Tensor) -> Tensor:
    """Set padded positions to zero: (B, M, d) values, (B, M) bool mask. Unlike a product, it also clears NaN."""
    return values.masked_fill(~mask.unsqueeze(-1), 0.0)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of (B, M, d) whose statistics see only the positions that are not padded.

    Attributes
    ----------
    running_mean, running_var : (d,) float, what evaluation uses
    reduce : function or None
        A differentiable sum of a tensor over the processes of a group. With it the statistics are those of the
        batches of all processes; None: of this process alone.

    Notes
    -----
    The mean is taken before the deviations are squared (two passes), so that features with a large mean and a
    small spread do not lose their variance to rounding.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.reduce: Callable[[Tensor], Tensor] | None = None

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return normalised values, zero where padded. Half precision is computed in float32 and given back."""
        dtype = values.dtype
        if dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        padded = ~mask.unsqueeze(-1)
        if self.training:
            mean, variance = self._statistics(values, mask, padded)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias, values - mean, scale).masked_fill(padded, 0.0).to(dtype)

    def _statistics(self, values: Tensor, mask: Tensor, padded: Tensor) -> tuple[Tensor, Tensor]:
        values = values.masked_fill(padded, 0.0)
        sums = torch.cat([values.sum((0, 1)), mask.sum().to(values).reshape(1)])
        if self.reduce is not None:
            sums = self.reduce(sums)
        count = sums[-1].detach().clamp(min=1.0)
        mean = sums[:-1] / count
        squares = (values - mean).masked_fill(padded, 0.0).square().sum((0, 1))
        if self.reduce is not None:
            squares = self.reduce(squares)
        variance = squares / count
        with torch.no_grad():
            unbiased = variance * count / (count - 1.0).clamp(min=1.0)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return mean, variance


class MaskedLayerNorm(nn.LayerNorm):
    """Layer normalisation of (B, M, d) that leaves padded positions zero."""

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Return normalised values, zero where padded."""
        return clear_padding(super().forward(values), mask)


def make_norm(kind: Norm, width: int) -> MaskedBatchNorm | MaskedLayerNorm:
    """Return the normalisation of that name."""
    return MaskedBatchNorm(width) if kind == "batch" else MaskedLayerNorm(width)


class InputProjection(nn.Module):
    """Linear map to the head's width, normalised, with dropout.

    The blocks normalise after their residual sum; without a normalisation here the scale of the stored features
    (which differs a hundredfold between backbones) would decide how much the first block can add to them.
    """

    def __init__(self, inputs: int, width: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.norm = make_norm(norm, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Map (B, T, inputs) to (B, T, width), zero where padded, whatever stood there."""
        values = clear_padding(values, mask).to(self.linear.weight.dtype)
        projected: Tensor = self.dropout(self.norm(self.linear(values), mask))
        return projected


class _Convolution(nn.Module):
    """1-D convolution along the steps; output as long as the input."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, kernel, padding="same")

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        convolved: Tensor = self.convolution(values.transpose(1, 2))
        return convolved.transpose(1, 2)


class _Recurrence(nn.Module):
    """One GRU layer from first to last: padding stands at the end, so that no real position sees it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        outputs: Tensor = self.gru(values)[0]
        return outputs


class _Attention(nn.Module):
    """Multi-head self-attention over the positions that are not padded."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = values.shape
        query, key, value = (
            self.inputs(values).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None, :], dropout_p=self.dropout if self.training else 0.0
        )
        attended: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return attended


class _FeedForward(nn.Module):
    """Two linear maps with a rectifier between, each position by itself."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, FEED_FORWARD * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(FEED_FORWARD * width, width),
        )

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        mapped: Tensor = self.layers(values)
        return mapped


class _Residual(nn.Module):
    """``norm(x + dropout(part(x)))``, zero where padded."""

    def __init__(self, part: nn.Module, width: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.part = part
        self.dropout = nn.Dropout(dropout)
        self.norm = make_norm(norm, width)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        normalised: Tensor = self.norm(values + self.dropout(self.part(values, mask)), mask)
        return normalised


class SequenceHead(nn.Module):
    """A learned token before the steps, then blocks of local mixing, attention and feed-forward.

    Parameters
    ----------
    width, layers, heads : sizes
    norm : ``batch`` (statistics over unpadded positions) or ``layer``, after each residual sum
    dropout : of each part's output, inside the feed-forward part and of the attention weights
    local : what each block begins with: a ``convolution`` of ``kernel`` steps, a ``gru``, or ``none``
    feed_forward : False leaves the blocks plain multi-head attention

    Notes
    -----
    There is no position embedding: order comes from the convolution (near steps, and the sequence's ends through
    the zeros beyond them) or from the GRU, so sequences of any length are served and none is learnt by heart.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        norm: Norm,
        dropout: float,
        local: Local,
        kernel: int = 3,
        feed_forward: bool = True,
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(width) * 0.02)
        parts: list[nn.Module] = []
        for _ in range(layers):
            if local == "convolution":
                parts.append(_Convolution(width, kernel))
            elif local == "gru":
                parts.append(_Recurrence(width))
            parts.append(_Attention(width, heads, dropout))
            if feed_forward:
                parts.append(_FeedForward(width, dropout))
        self.parts = nn.ModuleList(_Residual(part, width, norm, dropout) for part in parts)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Contextualise (B, T, width) into (B, T + 1, width) and its mask; the token's output comes first.

        ``values`` must be zero where padded, as `InputProjection` leaves them.
        """
        token = self.token.to(values.dtype).expand(len(values), 1, -1)
        values = torch.cat([token, values], dim=1)
        mask = F.pad(mask, (1, 0), value=True)
        for part in self.parts:
            values = part(values, mask)
        return values, mask
