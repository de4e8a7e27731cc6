"""The support set: which clips a caption may be written from, with which weights, and their mixture."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Captioning = Literal["none", "identity", "full", "hybrid", "cross"]


class Support(NamedTuple):
    """Weights of N captions over C candidate clips, as logarithms.

    Attributes
    ----------
    log_weights : (N, C) float, log w_ij; finite, and without meaning where ``members`` is false
    members : (N, C) bool, true where clip j stands in the support set of caption i
    """

    log_weights: Tensor
    members: Tensor

    @property
    def nonempty(self) -> Tensor:
        """(N,) bool: the captions that have a support set at all."""
        return self.members.any(1)

    def weights(self) -> Tensor:
        """(N, C) weights: they sum to one for each caption with a support set, and are zero for the others."""
        return self.log_weights.exp().masked_fill(~self.members, 0.0)

    def entropy(self) -> Tensor:
        """(N,) entropy of the weights, in nats; zero for captions without a support set."""
        return -(self.weights() * self.log_weights.masked_fill(~self.members, 0.0)).sum(1)


def support_weights(
    similarities: Tensor, own: Tensor, captioning: Captioning, temperature: float, allowed: Tensor | None = None
) -> Support:
    """Attend from captions over clips.

    Parameters
    ----------
    similarities : (N, C) float, cosine of each caption and each clip; every clip stands in one column only
    own : (N, C) bool, true where the caption describes the clip
    captioning : variant; ``none`` has no support set
    temperature : T > 0, of the softmax
    allowed : (N, C) bool, the clips that a caption may be written from besides its own; by default all

    Returns
    -------
    Support
        Differentiable in ``similarities``; float32 at least.
    """
    if similarities.dtype in (torch.float16, torch.bfloat16):
        similarities = similarities.float()
    everyone = torch.ones_like(own) if allowed is None else allowed | own
    if captioning == "identity":
        return Support(torch.zeros_like(similarities), own)
    if captioning == "full":
        return Support(_log_softmax(similarities / temperature, everyone), everyone)
    if captioning == "hybrid":
        # log of the mean of the one-hot weights and the softmax weights w: (1 + w) / 2 for the own clip, w / 2 else.
        log_full = _log_softmax(similarities / temperature, everyone)
        return Support(torch.where(own, F.softplus(log_full), log_full) - math.log(2.0), everyone)
    if captioning == "cross":
        others = everyone & ~own
        return Support(_log_softmax(similarities / temperature, others), others)
    raise ValueError(f"captioning {captioning!r} has no support set")


def draw(allowed: Tensor, own: Tensor, size: int, captioning: Captioning) -> Tensor:
    """Draw support sets of a given size at random, anew for each caption.

    Parameters
    ----------
    allowed, own : (N, C) bool, as of `support_weights`
    size : clips of a support set; where the variant holds the caption's own clip, that is one of them

    Returns
    -------
    (N, C) bool
        The part of ``allowed`` that was drawn; all of it where it is not larger.
    """
    lots = torch.rand(allowed.shape, device=allowed.device)
    return _highest(lots, allowed & ~own, own, size, captioning)


def nearest(similarities: Tensor, allowed: Tensor, own: Tensor, count: int, captioning: Captioning) -> Tensor:
    """The ``count`` clips that are most similar to each caption; otherwise as `draw`."""
    return _highest(similarities.detach(), allowed & ~own, own, count, captioning)


def _highest(lots: Tensor, others: Tensor, own: Tensor, size: int, captioning: Captioning) -> Tensor:
    lots = lots.masked_fill(~others, -torch.inf)
    number = size if captioning == "cross" else size - own.any(1).long()
    place = lots.argsort(1, descending=True).argsort(1)
    return others & (place < torch.as_tensor(number, device=others.device).reshape(-1, 1))


def mix(
    support: Support, codes: Tensor, mask: Tensor, more: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Mix the video codes of each caption's support set, position by position.

    At each position the weights are renormalised over the supporting clips that have it. That is done as a
    softmax of the logarithms, so a position that only clips of vanishing weight have still gets their exact
    mixture, not 0 / 0.

    Parameters
    ----------
    support : weights of N captions over C clips
    codes : (C, M, d) float, zero where padded
    mask : (C, M) bool
    more : codes and mask of the clips after these, where the support has K of them besides: (K, M', d) and (K, M').
        They are not copied into one tensor with the others, which a large bank would make slow

    Returns
    -------
    (N, M, d) float and (N, M) bool
        The mixture, and the positions that any supporting clip has; zero elsewhere. With ``more`` the longer of both
        is M.
    """
    parts = [(codes, mask)] if more is None else [(codes, mask), more]
    steps = max(each.shape[1] for _, each in parts)
    have = torch.cat([F.pad(each, (0, steps - each.shape[1])) for _, each in parts])
    available = support.members[:, :, None] & have[None]
    covered = available.any(1)
    weights = _masked(support.log_weights[:, :, None], available).softmax(1) * covered[:, None]
    mixture: Tensor | None = None
    start = 0
    for values, each in parts:
        share = weights[:, start : start + len(each), : each.shape[1]]
        part = torch.einsum("ncm,cmd->nmd", share.to(values.dtype), values).to(codes.dtype)
        part = F.pad(part, (0, 0, 0, steps - each.shape[1]))
        mixture, start = part if mixture is None else mixture + part, start + len(each)
    assert mixture is not None
    return mixture, covered


def _log_softmax(logits: Tensor, members: Tensor) -> Tensor:
    # A row without members stays finite (all its logits are equal) and gets no gradient.
    return _masked(logits, members).log_softmax(1)


def _masked(logits: Tensor, members: Tensor) -> Tensor:
    return logits.masked_fill(~members, torch.finfo(logits.dtype).min)
