"""Cross entropy of a projection onto a vocabulary, without the tensors of that size that the plain way makes.

The plain way makes the logits, their log-softmax, and in the backward pass a gradient of each. Here one tensor of that
size is kept: the softmax less the label's one, which is the gradient of the logits but for a factor a row. So the
backward pass is two products and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_HALVES = (torch.float16, torch.bfloat16)
_ROWS = {"cpu": 512}  # projected at a time: the softmax finds their logits in the caches
_ROWS_ELSEWHERE = 4096


def vocabulary_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of labels, each under the softmax of ``weight @ hidden``.

    Parameters
    ----------
    hidden : Tensor
        (R, d) float.
    weight : Tensor
        (V, d) float, of the vocabulary projection; it has no bias.
    labels : Tensor
        (R,) long.

    Returns
    -------
    Tensor
        (R,) in nats, float32 at least. The gradient is exact; it can be taken once.

    Notes
    -----
    Under autocast the products are in its dtype, and the softmax in float32, as for ``F.linear`` and
    ``F.cross_entropy``. Between the passes (R, V) numbers of the products' dtype are held.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(kind, enabled=False):
        learns = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
        losses: Tensor = _VocabularyLoss.apply(hidden, weight, labels, learns)
    return losses


class _VocabularyLoss(torch.autograd.Function):
    """One pass over the rows forward, some at a time; two products back."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, learns: bool) -> Tensor:
        rows, wide = len(hidden), torch.float32 if hidden.dtype in _HALVES else hidden.dtype
        losses = hidden.new_empty(rows, dtype=wide)
        at_once = _ROWS.get(hidden.device.type, _ROWS_ELSEWHERE)
        errors = hidden.new_empty(rows if learns else min(rows, at_once), len(weight))
        logits = torch.empty_like(errors[:at_once])
        for start in range(0, rows, at_once):
            own = labels[start : start + at_once, None]
            part = torch.mm(hidden[start : start + at_once], weight.T, out=logits[: len(own)]).to(wide)
            kept = errors[start : start + at_once] if learns else errors[: len(own)]
            shares = torch.softmax(part, 1, out=kept if kept.dtype == wide else torch.empty_like(part))
            # The likeliest token's share is at least 1 / V, so its logarithm is exact where the label's would be -inf.
            partition = part.amax(1, keepdim=True) - shares.amax(1, keepdim=True).log_()
            losses[start : start + at_once] = (partition - part.gather(1, own)).squeeze(1)
            if learns:
                kept.copy_(shares.scatter_add_(1, own, part.new_full(own.shape, -1.0)))
        if learns:
            ctx.save_for_backward(hidden, weight, errors)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, errors = ctx.saved_tensors
        of_hidden = of_weight = None
        if ctx.needs_input_grad[0]:
            of_hidden = ((errors @ weight) * slope[:, None]).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = errors.T @ (hidden * slope[:, None]).to(hidden.dtype)
        return of_hidden, of_weight, None, None
