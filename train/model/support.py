"""The support set S_i: which clips a caption is reconstructed from, their weights w_ij, and their mixture ē_i.

The variants are the modules of ``captioning/`` and the entry points ``supportset.captioning``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from supportset.train.registry import CAPTIONING


class Support(NamedTuple):
    """Weights of N captions over C candidate clips, as logarithms.

    Attributes
    ----------
    log_weights : Tensor
        (N, C) float, log w_ij; finite, and without meaning where ``members`` is false.
    members : Tensor
        (N, C) bool, true where clip j is in S_i.
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


@dataclass(frozen=True)
class Captioning:
    """One captioning variant.

    Attributes
    ----------
    description : str
        For the model card.
    support : callable or None
        Gives the `Support` from ``logits`` s / T, ``is_positive`` (whether a caption describes a clip) and
        ``candidates`` (which clips may support a caption besides its own), all (N, C). None: no captioning loss.
    own, others : bool
        Whether the caption's clip, and other clips, are in the support set. Without others the keys of the ``support``
        section that choose or weigh clips change nothing, and are refused.
    learns_own : bool
        Whether the decoder sees a clip's own codes with so much weight that it learns to caption from them alone, as
        the command ``caption`` asks it to.
    """

    description: str
    support: Callable[[Tensor, Tensor, Tensor], Support] | None
    own: bool = True
    others: bool = True
    learns_own: bool = False


def support_weights(
    s: Tensor, is_positive: Tensor, captioning: str, temperature: float, may_support: Tensor | None = None
) -> Support:
    """Compute w_ij = softmax_{j ∈ S_i} (s(c_t[i], c_v[j]) / T), or what the variant makes of it.

    Parameters
    ----------
    s : Tensor
        (N, C) float, cosine of each caption and each clip; every clip has one column.
    is_positive : Tensor
        (N, C) bool, true where the caption describes the clip.
    captioning : str
        Name of the variant.
    temperature : float
        T > 0.
    may_support : Tensor, optional
        (N, C) bool, the clips that a caption may be reconstructed from besides its own. Default: all.

    Returns
    -------
    Support
        Differentiable in ``s``; float32 at least.
    """
    variant: Captioning = CAPTIONING.load(captioning)
    if variant.support is None:
        raise ValueError(f"captioning {captioning!r} has no support set")
    if s.dtype in (torch.float16, torch.bfloat16):
        s = s.float()
    candidates = torch.ones_like(is_positive) if may_support is None else may_support
    return variant.support(s / temperature, is_positive, candidates)


def draw(may_support: Tensor, is_positive: Tensor, size: int, captioning: str) -> Tensor:
    """Draw support sets of a given size at random, anew for each caption.

    Parameters
    ----------
    may_support, is_positive : Tensor
        (N, C) bool, as of `support_weights`.
    size : int
        Clips of a support set; where the variant uses the caption's own clip, that is one of them.
    captioning : str
        Name of the variant.

    Returns
    -------
    Tensor
        (N, C) bool, the part of ``may_support`` that was drawn; all of it where it is not larger.
    """
    lots = torch.rand(may_support.shape, device=may_support.device)
    return _highest(lots, may_support & ~is_positive, is_positive, size, captioning)


def nearest(s: Tensor, may_support: Tensor, is_positive: Tensor, count: int, captioning: str) -> Tensor:
    """Return the ``count`` clips that are most similar to each caption; otherwise as `draw`."""
    return _highest(s.detach(), may_support & ~is_positive, is_positive, count, captioning)


def _highest(lots: Tensor, others: Tensor, is_positive: Tensor, size: int, captioning: str) -> Tensor:
    lots = lots.masked_fill(~others, -torch.inf)
    number = size - is_positive.any(1).long() if CAPTIONING.load(captioning).own else size
    rank = lots.argsort(1, descending=True).argsort(1)
    return others & (rank < torch.as_tensor(number, device=others.device).reshape(-1, 1))


def mix(
    support: Support, codes: Tensor, mask: Tensor, more: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Compute ē_i = Σ_j w_ij · e_v[j], position by position.

    At each position the weights are renormalised over the supporting clips that have it. That is done as a
    softmax of the logarithms, so a position that only clips of vanishing weight have still gets their exact
    mixture, not 0 / 0.

    Parameters
    ----------
    support : Support
        Weights of N captions over C clips.
    codes : Tensor
        (C, M, d_e) float, e_v, zero where padded.
    mask : Tensor
        (C, M) bool.
    more : tuple of Tensor, optional
        Codes (K, M', d_e) and mask (K, M') of further clips, where the support has K of them after the C. They are not
        copied into one tensor with the others, which a large bank would make slow.

    Returns
    -------
    tuple of Tensor
        The mixture, (N, M, d_e) float, and the positions that any supporting clip has, (N, M) bool; zero elsewhere.
        With ``more`` the longer of both is M.
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
        w = weights[:, start : start + len(each), : each.shape[1]]
        part = torch.einsum("ncm,cmd->nmd", w.to(values.dtype), values).to(codes.dtype)
        part = F.pad(part, (0, 0, 0, steps - each.shape[1]))
        mixture, start = part if mixture is None else mixture + part, start + len(each)
    assert mixture is not None
    return mixture, covered


def log_softmax(logits: Tensor, members: Tensor) -> Tensor:
    """Take the log-softmax over the members of each row; a row without members stays finite and gets no gradient."""
    return _masked(logits, members).log_softmax(1)


def _masked(logits: Tensor, members: Tensor) -> Tensor:
    return logits.masked_fill(~members, torch.finfo(logits.dtype).min)
