"""The contrastive loss: hinge with hardest or summed negatives, or InfoNCE; across and within the modalities.

Each loss compares, for each caption i, the similarity s(c_t[i], c_v[i]) of the
caption and its clip with those of its negatives. A negative always belongs to
another clip: other captions of the same clip are never pushed away.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Negatives = Literal["hardest", "summed", "infonce"]


def contrastive_loss(
    text: Tensor,
    video: Tensor,
    caption_clip: Tensor,
    *,
    negatives: Negatives,
    margin: float,
    temperature: float,
    intra: bool = False,
) -> Tensor:
    """Contrast captions and clips, mean over the captions.

    Parameters
    ----------
    text : (N, d) float, captions' embeddings of unit length
    video : (C, d) float, clips' embeddings of unit length, each clip once
    caption_clip : (N,) long, the clip of each caption
    negatives : ``hardest`` and ``summed`` are the hinge loss over the worst negative, or the sum over all;
        ``infonce`` is the cross entropy of the softmax over the positive and all negatives
    margin : of the hinge loss
    temperature : of InfoNCE
    intra : also take negatives within a modality: captions against captions, clips against clips

    Returns
    -------
    Tensor
        Scalar. The hinge loss adds both directions. InfoNCE takes their mean, as is usual for it. A caption
        without any negative (a batch of one clip) adds zero.

    Notes
    -----
    From caption to clip the negatives are the other clips, each once; from clip to caption they are all captions
    of other clips. Within a modality the positive stays s(c_t[i], c_v[i]).
    """
    own = caption_clip[:, None] == torch.arange(len(video), device=caption_clip.device)  # (N, C)
    siblings = caption_clip[:, None] == caption_clip[None, :]  # (N, N): captions of one clip, itself included
    across = text @ video.T
    positive = across.gather(1, caption_clip[:, None])  # (N, 1)
    terms = [
        _contrast(positive, across, ~own, negatives, margin, temperature),
        _contrast(positive, across.T[caption_clip], ~siblings, negatives, margin, temperature),
    ]
    if intra:
        terms += [
            _contrast(positive, text @ text.T, ~siblings, negatives, margin, temperature),
            _contrast(positive, (video @ video.T)[caption_clip], ~own, negatives, margin, temperature),
        ]
    total = torch.stack(terms).sum(0).mean()
    return total / 2 if negatives == "infonce" else total


def _contrast(
    positive: Tensor, candidates: Tensor, negative: Tensor, kind: Negatives, margin: float, temperature: float
) -> Tensor:
    """Return the loss (N,) of positives (N, 1) against those candidates (N, K) that are negatives."""
    if kind == "infonce":
        logits = torch.cat([positive, candidates.masked_fill(~negative, -torch.inf)], dim=1) / temperature
        return -logits.log_softmax(1)[:, 0]
    violations = (margin - positive + candidates).clamp(min=0.0).masked_fill(~negative, 0.0)
    if kind == "hardest":
        # amax shares the gradient among equals, so it does not depend on the order of the batch.
        return violations.amax(1)
    if kind == "summed":
        return violations.sum(1)
    raise ValueError(f"unknown negatives {kind!r}")
