"""The objective of one process over one batch: L = L_con + λ · L_cap.

`ranks` spreads it over several processes, `ops.micro_batches` over parts of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from supportset.train.config import Config, LossConfig, SupportConfig
from supportset.train.model.losses import contrastive_loss, positives
from supportset.train.model.memory_bank import Entries
from supportset.train.model.support import Support, draw, mix, nearest, support_weights
from supportset.train.model.video_encoder import VideoCodes

Decode = Callable[[Tensor, Tensor, Tensor], Tensor]  # mixtures, their mask, labels -> (N,) − log p(t_i | ē_i)


@dataclass
class Losses:
    """Losses of one batch.

    Attributes
    ----------
    total : Tensor
        Scalar to descend on, L.
    contrastive, captioning : Tensor
        Scalars, L_con and L_cap; L_cap is zero where there is no captioning.
    stats : dict of str to Tensor
        Detached scalars for the log: ``positive`` (mean cosine of a caption and its clip), ``negative`` (mean cosine of
        a caption and the nearest other clip). With captioning also ``support_entropy`` (nats, mean over the captions
        with a support set) and ``captions_without_support`` (a count). With a memory bank also its own figures and
        ``bank_weight``, its part of the weights.
    codes : VideoCodes, optional
        Detached codes of the batch's clips, for a memory bank; None without captioning.
    """

    total: Tensor
    contrastive: Tensor
    captioning: Tensor
    stats: dict[str, Tensor]
    codes: VideoCodes | None = None


class CaptionSums(NamedTuple):
    """Sums over captions: of − log p(t_i | ē_i), of those with and without a support set, and for the log."""

    loss: Tensor
    captions: Tensor
    without_support: Tensor
    entropy: Tensor
    from_bank: Tensor

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a sum over the captions with a support set."""
        return value / self.captions.clamp(min=1)


def objective(
    config: Config,
    decode: Decode | None,
    c_t: Tensor,
    video: VideoCodes,
    caption_clip: Tensor,
    labels: Tensor | None,
    loss: LossConfig | None = None,
    *,
    may_support: Tensor | None = None,
    entries: Entries | None = None,
) -> Losses:
    """Compute L = L_con + λ · L_cap of N captions and C clips.

    Parameters
    ----------
    config : Config
        The run's configuration.
    decode : callable, optional
        Gives − log p(t_i | ē_i), mean over each caption's tokens; None without captioning.
    c_t : Tensor
        (N, d) float, text embeddings of unit length.
    video : VideoCodes
        c_v, of unit length, and e_v of C clips, each clip once.
    caption_clip : Tensor
        (N,) long, the clip of each caption.
    labels : Tensor, optional
        (N, L) long, t_i, -100 where padded; None without captioning.
    loss : LossConfig, optional
        Replaces the configured ``loss`` section, for a warm-up.
    may_support : Tensor, optional
        (C, C) bool, false where a clip may not support the other's captions. Default: true everywhere.
    entries : Entries, optional
        Of a memory bank, which join the support sets; they are no negatives of L_con.
    """
    loss = loss or config.loss
    l_con, stats = contrastive_part(loss, c_t, video.embedding, caption_clip)
    if decode is None:
        return Losses(l_con, l_con, torch.zeros_like(l_con), stats)
    sums = caption_sums(config.support, decode, c_t, video, caption_clip, labels, may_support, entries)
    l_cap = sums.mean(sums.loss)
    return Losses(l_con + loss.caption_weight * l_cap, l_con, l_cap, stats | caption_stats(sums, entries))


def contrastive_part(
    loss: LossConfig, c_t: Tensor, c_v: Tensor, caption_clip: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute L_con and its figures for the log."""
    # Similarities are compared at differences far below what bf16 resolves near 1.
    with torch.autocast(c_t.device.type, enabled=False):
        l_con = contrastive_loss(loss, c_t, c_v, caption_clip)
        s = c_t.detach() @ c_v.detach().T
    is_positive = positives(caption_clip, len(c_v))
    nearest_other = s.masked_fill(is_positive, -1.0).amax(1)  # -1 where there is no other clip
    return l_con, {"positive": s.masked_fill(~is_positive, 0.0).sum(1).mean(), "negative": nearest_other.mean()}


def caption_sums(
    config: SupportConfig,
    decode: Decode,
    c_t: Tensor,
    video: VideoCodes,
    caption_clip: Tensor,
    labels: Tensor | None,
    may_support: Tensor | None = None,
    entries: Entries | None = None,
) -> CaptionSums:
    """Reconstruct each caption from its support set; parameters as of `objective`."""
    if labels is None:
        raise ValueError("captioning needs labels in the batch")
    more = None if entries is None else (entries.codes.sequence, entries.codes.mask)
    w = support_set(config, c_t, video.embedding, caption_clip, may_support, entries)
    e_bar, covered = mix(w, video.sequence, video.mask, more)
    nll = decode(e_bar, covered, labels)
    nonempty = w.nonempty
    with torch.no_grad():
        entropy, from_bank = w.entropy().sum(), w.weights()[:, len(video.embedding) :].sum()
    return CaptionSums(torch.where(nonempty, nll, 0.0).sum(), nonempty.sum(), (~nonempty).sum(), entropy, from_bank)


def support_set(
    config: SupportConfig,
    c_t: Tensor,
    c_v: Tensor,
    caption_clip: Tensor,
    may_support: Tensor | None = None,
    entries: Entries | None = None,
) -> Support:
    """Compute w_ij over the batch's clips and then the memory bank's entries; parameters as of `objective`."""
    is_positive = positives(caption_clip, len(c_v))
    allowed = torch.ones_like(is_positive) if may_support is None else may_support[caption_clip]
    with torch.autocast(c_t.device.type, enabled=False):
        c_t = c_t if config.text_gradient else c_t.detach()
        s = c_t @ (c_v if config.video_gradient else c_v.detach()).T
        if entries is not None:
            s = torch.cat([s, c_t @ entries.codes.embedding.to(c_t.dtype).T], dim=1)
            allowed = torch.cat([allowed, entries.usable[caption_clip]], dim=1)
            is_positive = F.pad(is_positive, (0, entries.usable.shape[1]))
    if config.size is not None:
        allowed = draw(allowed, is_positive, config.size, config.captioning)
    if config.top_k is not None:
        allowed = nearest(s, allowed, is_positive, config.top_k, config.captioning)
    return support_weights(s, is_positive, config.captioning, config.temperature, allowed)


def caption_stats(sums: CaptionSums, entries: Entries | None) -> dict[str, Tensor]:
    """Return the captioning's figures for the log."""
    stats = {"support_entropy": sums.mean(sums.entropy), "captions_without_support": sums.without_support.float()}
    if entries is not None:
        stats["bank_weight"] = sums.mean(sums.from_bank)
        stats |= {name: torch.tensor(value, device=sums.loss.device) for name, value in entries.stats.items()}
    return stats
