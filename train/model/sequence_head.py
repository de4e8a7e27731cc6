"""The transformer head that the video side and the text side share, blind to padding.

Every part keeps one invariant: positions that are padded are zero, or not there at all. So a convolution that reaches
over the end of a short sequence sees zeros as at the end of the tensor, and what stood in the padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supportset.train.model.ops.dropout import Dropout
from supportset.train.model.ops.padding import Positions, clear_padding

Norm = Literal["batch", "layer"]
Local = Literal["convolution", "gru", "none"]

FEED_FORWARD = 4  # inner width of the feed-forward part, in widths


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of (R, d) whose statistics see only the positions that are real.

    Attributes
    ----------
    running_mean, running_var : Tensor
        (d,) float, what evaluation uses.
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

    def forward(self, values: Tensor, real: Tensor | None = None) -> Tensor:
        """Normalise (R, d) values; ``real``, (R,) bool, tells which count, None: all. Zero where one does not.

        Half precision is computed in float32 and given back.
        """
        dtype = values.dtype
        if dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        if self.training and (real is not None or self.reduce is not None or len(values) < 2):
            mean, variance = self._statistics(values, real)
            values = torch.addcmul(self.bias, values - mean, self.weight * torch.rsqrt(variance + self.eps))
        else:  # what PyTorch has does the same for positions that are all real
            values = F.batch_norm(
                values,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                self.training,
                self.momentum,
                self.eps,
            )
        return clear_padding(values, real).to(dtype)

    def _statistics(self, values: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        values = clear_padding(values, real)
        number = values.new_full((1,), len(values)) if real is None else real.sum().to(values).reshape(1)
        sums = torch.cat([values.sum(0), number])
        if self.reduce is not None:
            sums = self.reduce(sums)
        count = sums[-1].detach().clamp(min=1.0)
        mean = sums[:-1] / count
        squares = clear_padding(values - mean, real).square().sum(0)
        if self.reduce is not None:
            squares = self.reduce(squares)
        variance = squares / count
        with torch.no_grad():
            unbiased = variance * count / (count - 1.0).clamp(min=1.0)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return mean, variance


class MaskedLayerNorm(nn.LayerNorm):
    """Layer normalisation of (R, d) that leaves padded positions zero."""

    def forward(self, values: Tensor, real: Tensor | None = None) -> Tensor:
        """Normalise (R, d) values; zero where ``real``, (R,) bool, is false."""
        return clear_padding(super().forward(values), real)


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
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Map (B, T, inputs) to (B, T, width), zero where padded, whatever stood there."""
        positions = Positions.of(mask)
        packed = clear_padding(positions.unpad(values), positions.real).to(self.linear.weight.dtype)
        return positions.pad(self.dropout(self.norm(self.linear(packed), positions.real)))


class _Convolution(nn.Module):
    """1-D convolution along the steps; output as long as the input."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, kernel, padding="same")  # holds the weights

    def forward(self, values: Tensor, positions: Positions, mask: Tensor) -> Tensor:
        weight = self.convolution.weight  # (out, in, kernel)
        windows = positions.windows(values, weight.shape[2])
        return F.linear(windows, weight.transpose(1, 2).flatten(1), self.convolution.bias)


class _Recurrence(nn.Module):
    """One GRU layer from first to last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, values: Tensor, positions: Positions, mask: Tensor) -> Tensor:
        return positions.recurrence(self.gru, values)


class _Attention(nn.Module):
    """Multi-head self-attention over the positions that are not padded."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, values: Tensor, positions: Positions, mask: Tensor) -> Tensor:
        query, key, value = positions.heads(self.inputs(values), 3 * self.heads).chunk(3, dim=1)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None, :], dropout_p=self.dropout if self.training else 0.0
        )
        attended: Tensor = self.output(positions.join_heads(mixed))
        return attended


class _FeedForward(nn.Module):
    """Two linear maps with a rectifier between, each position by itself."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, FEED_FORWARD * width),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(FEED_FORWARD * width, width),
        )

    def forward(self, values: Tensor, positions: Positions, mask: Tensor) -> Tensor:
        mapped: Tensor = self.layers(values)
        return mapped


class _Residual(nn.Module):
    """``norm(x + dropout(part(x)))``, zero where padded."""

    def __init__(self, part: nn.Module, width: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.part = part
        self.dropout = Dropout(dropout)
        self.norm = make_norm(norm, width)

    def forward(self, values: Tensor, positions: Positions, mask: Tensor) -> Tensor:
        normalised: Tensor = self.norm(values + self.dropout(self.part(values, positions, mask)), positions.real)
        return normalised


class SequenceHead(nn.Module):
    """A learned token before the steps, then blocks of local mixing, attention and feed-forward.

    Parameters
    ----------
    width, layers, heads : int
        Sizes.
    norm : Norm
        ``batch`` (statistics over unpadded positions) or ``layer``, after each residual sum.
    dropout : float
        Of each part's output, inside the feed-forward part and of the attention weights.
    local : Local
        What each block begins with: a ``convolution`` of ``kernel`` steps, a ``gru``, or ``none``.
    feed_forward : bool
        False leaves the blocks plain multi-head attention.

    Notes
    -----
    There is no position embedding: order comes from the convolution (near steps, and the sequence's ends through
    the zeros beyond them) or from the GRU, so sequences of any length are served and none is learnt by heart.
    """

    added_positions = 1  # the token's

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

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Contextualise (B, T, width): the token's output (B, width), all outputs (B, T + 1, width) and their mask.

        The token's output comes first. ``values`` must be zero where padded, as `InputProjection` leaves them.
        """
        token = self.token.to(values.dtype).expand(len(values), 1, -1)
        values = torch.cat([token, values], dim=1)
        mask = F.pad(mask, (1, 0), value=True)
        positions = Positions.of(mask)
        packed = positions.unpad(values)
        for part in self.parts:
            packed = part(packed, positions, mask)
        sequence = positions.pad(packed)
        return sequence[:, 0], sequence, mask


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, M, d) over the positions of a (B, M) bool mask; zero where there is none."""
    kept = values.masked_fill(~mask.unsqueeze(-1), 0.0)
    mean: Tensor = kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return mean
