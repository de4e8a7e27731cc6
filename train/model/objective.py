"""The losses of one batch, from what the encoders gave: contrastive, and captions written from their support sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from supportset.train.config import Config, SupportConfig
from supportset.train.model.batch import Batch, Share
from supportset.train.model.decoder import CaptionDecoder
from supportset.train.model.gather import share_of, totals
from supportset.train.model.losses import Negatives, contrastive_loss
from supportset.train.model.memory_bank import Entries
from supportset.train.model.ops.micro_batches import in_chunks
from supportset.train.model.support import Support, draw, mix, nearest, support_weights
from supportset.train.model.video_encoder import VideoCodes


@dataclass
class Losses:
    """Losses of one batch.

    Attributes
    ----------
    total : scalar to descend on, ``contrastive + weight * captioning``
    contrastive, captioning : scalars; captioning is zero where there is none
    stats : detached scalars for the log: ``positive`` (mean cosine of a caption and its clip), ``negative`` (mean
        cosine of a caption and the nearest other clip), and with captioning ``support_entropy`` (nats, mean over the
        captions with a support set) and ``captions_without_support`` (a count); with a memory bank what it tells of
        itself, and ``bank_weight``, its share of the weights
    codes : detached codes of the batch's clips, for a memory bank; None without captioning

    Notes
    -----
    Where several processes compute the batch, the values are those of the whole batch in each of them, and the
    gradients those of the process's share: summed over the processes they are the whole batch's.
    """

    total: Tensor
    contrastive: Tensor
    captioning: Tensor
    stats: dict[str, Tensor]
    codes: VideoCodes | None = None


def batch_losses(
    config: Config,
    decoder: CaptionDecoder | None,
    text: Tensor,
    video: VideoCodes,
    caption_clip: Tensor,
    labels: Tensor | None,
    negatives: Negatives | None = None,
    *,
    apart: Tensor | None = None,
    entries: Entries | None = None,
    share: Share | None = None,
) -> Losses:
    """Losses of a batch of N captions and C clips.

    Parameters
    ----------
    config : the run's configuration
    decoder : of captions; None without captioning
    text : (N, d) float, unit length
    video : codes of C clips, each clip once
    caption_clip : (N,) long, the clip of each caption
    labels : (N, L) long, -100 where padded; None without captioning. Those of the share, where there is one
    negatives : takes the place of the configured kind
    apart : (C, C) bool, false where clips may not support each other's captions; by default true everywhere
    entries : of a memory bank, which join the support sets; they are no negatives of the contrastive loss
    share : which captions this process decodes, where several processes hold the same codes; None: all
    """
    settings = config.loss
    if negatives is None:
        negatives = "infonce" if settings.contrastive == "infonce" else settings.negatives
    # Similarities are compared at differences far below what bf16 resolves near 1.
    with torch.autocast(text.device.type, enabled=False):
        contrastive = contrastive_loss(
            text,
            video.embedding,
            caption_clip,
            negatives=negatives,
            margin=settings.margin,
            temperature=settings.temperature,
            intra=settings.intra,
        )
        if not config.support.text_gradient:
            text = text.detach()
        clips = video.embedding if config.support.video_gradient else video.embedding.detach()
        similarities = text @ clips.T
    own = caption_clip[:, None] == torch.arange(len(video.embedding), device=caption_clip.device)
    stats = _similarity_stats(similarities.detach(), own)
    if share is not None:  # all processes have computed the same
        contrastive = share_of(contrastive, contrastive / len(share.captions))
    if decoder is None:
        return Losses(contrastive, contrastive, torch.zeros_like(contrastive), stats)
    if labels is None:
        raise ValueError("captioning needs labels in the batch")
    if share is not None:
        rows = share.caption_rows
        text, similarities, own, caption_clip = text[rows], similarities[rows], own[rows], caption_clip[rows]
    support, more = _support(config.support, text, similarities, own, caption_clip, apart, entries)
    mixture, covered = mix(support, video.sequence, video.mask, more)
    (each,) = in_chunks(lambda *parts: (decoder(*parts),), config.optim.accumulate, mixture, covered, labels)
    nonempty = support.nonempty
    captioned, captions = torch.where(nonempty, each, 0.0).sum(), nonempty.sum()
    with torch.no_grad():
        without, entropy = (~nonempty).sum(), support.entropy().sum()
        from_bank = support.weights()[:, own.shape[1] :].sum() if entries is not None else torch.zeros_like(entropy)
    captioned_here = captioned
    if share is not None:
        counted = float(share.captions[share.rank] > 0)  # else another process's caption stands in
        captioned_here = captioned * counted
        captioned, captions, without, entropy, from_bank = totals(
            captioned_here, captions * counted, without * counted, entropy * counted, from_bank * counted
        )
    captions = captions.clamp(min=1)
    captioning = captioned / captions
    if share is not None:
        captioning = share_of(captioning, captioned_here / captions)
    stats |= {"support_entropy": entropy / captions, "captions_without_support": without.float()}
    if entries is not None:
        stats["bank_weight"] = from_bank / captions
        stats |= {name: torch.tensor(value, device=text.device) for name, value in entries.stats.items()}
    return Losses(contrastive + settings.weight * captioning, contrastive, captioning, stats)


def may_support(batch: Batch) -> Tensor | None:
    """(C, C) bool, false where two clips are of one source video that may not support itself; None: no such rule."""
    if batch.sources is None:
        return None
    sources = torch.tensor(batch.sources, device=batch.caption_clip.device)
    return sources[:, None] != sources[None, :]


def _support(
    settings: SupportConfig,
    text: Tensor,
    similarities: Tensor,
    own: Tensor,
    caption_clip: Tensor,
    apart: Tensor | None,
    entries: Entries | None,
) -> tuple[Support, tuple[Tensor, Tensor] | None]:
    """Weights over the batch's clips and then the bank's entries; codes and mask of the latter."""
    allowed = torch.ones_like(own) if apart is None else apart[caption_clip]
    more = None
    if entries is not None:
        with torch.autocast(text.device.type, enabled=False):
            similarities = torch.cat([similarities, text @ entries.codes.embedding.to(text.dtype).T], dim=1)
        allowed = torch.cat([allowed, entries.usable[caption_clip]], dim=1)
        own = F.pad(own, (0, entries.usable.shape[1]))
        more = (entries.codes.sequence, entries.codes.mask)
    if settings.size is not None:
        allowed = draw(allowed, own, settings.size, settings.captioning)
    if settings.top_k is not None:
        allowed = nearest(similarities, allowed, own, settings.top_k, settings.captioning)
    return support_weights(similarities, own, settings.captioning, settings.temperature, allowed), more


def _similarity_stats(similarities: Tensor, own: Tensor) -> dict[str, Tensor]:
    nearest = similarities.masked_fill(own, -1.0).amax(1)  # -1 where there is no other clip
    return {"positive": similarities.masked_fill(~own, 0.0).sum(1).mean(), "negative": nearest.mean()}
