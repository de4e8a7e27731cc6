"""The contrastive loss L_con: captions against clips, both directions, and within a modality where configured.

Each loss compares, for each caption i, the similarity s(c_t[i], c_v[i]) of the caption and its clip with those of its
negatives. A negative always belongs to another clip: other captions of the same clip are never pushed away. The losses
are the modules of ``contrastive/`` and the entry points ``supportset.losses``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from supportset.train.config import LossConfig
from supportset.train.registry import CONTRASTIVE


@dataclass(frozen=True)
class ContrastiveLoss:
    """One kind of contrastive loss.

    Attributes
    ----------
    description : str
        For the model card; fields of the ``loss`` section in braces are filled in.
    contrast : callable
        Gives the loss (N,) of positives (N, 1) against those candidates (N, K) that are negatives, (N, K) bool. It also
        gets the ``loss`` section. A row without a negative gives zero.
    keys : tuple of str
        Keys of the ``loss`` section that it reads; a search over any other changes nothing.
    mean_of_directions : bool
        Whether both directions are averaged; else they are added.
    """

    description: str
    contrast: Callable[[Tensor, Tensor, Tensor, LossConfig], Tensor]
    keys: tuple[str, ...] = ()
    mean_of_directions: bool = False


def contrastive_loss(config: LossConfig, c_t: Tensor, c_v: Tensor, caption_clip: Tensor) -> Tensor:
    """Compute L_con, mean over the captions.

    Parameters
    ----------
    config : LossConfig
        Which loss, and its settings.
    c_t : Tensor
        (N, d) float, text embeddings of unit length.
    c_v : Tensor
        (C, d) float, video embeddings of unit length, each clip once.
    caption_clip : Tensor
        (N,) long, the clip of each caption.

    Returns
    -------
    Tensor
        Scalar. A caption without any negative (a batch of one clip) adds zero.

    Notes
    -----
    From caption to clip the negatives are the other clips, each once; from clip to caption they are all captions
    of other clips. Within a modality the positive stays s(c_t[i], c_v[i]).
    """
    loss: ContrastiveLoss = CONTRASTIVE.load(config.contrastive)
    is_positive = positives(caption_clip, len(c_v))
    same_clip = caption_clip[:, None] == caption_clip[None, :]  # (N, N), a caption and itself included
    s = c_t @ c_v.T
    s_ii = s.gather(1, caption_clip[:, None])  # (N, 1)
    terms = [
        loss.contrast(s_ii, s, ~is_positive, config),
        loss.contrast(s_ii, s.T[caption_clip], ~same_clip, config),
    ]
    if config.intra:
        terms += [
            loss.contrast(s_ii, c_t @ c_t.T, ~same_clip, config),
            loss.contrast(s_ii, (c_v @ c_v.T)[caption_clip], ~is_positive, config),
        ]
    total = torch.stack(terms).sum(0).mean()
    return total / 2 if loss.mean_of_directions else total


def positives(caption_clip: Tensor, clips: int) -> Tensor:
    """Return ``is_positive``, (N, C) bool: whether a caption describes a clip."""
    return caption_clip[:, None] == torch.arange(clips, device=caption_clip.device)
