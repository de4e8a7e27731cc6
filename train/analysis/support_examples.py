"""What single captions were written from: clips with their weights, and what the decoder writes from the mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from supportset.store.format.dataset import Caption
from supportset.train.analysis.caption_groups import caption_groups, owners
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.encode import evaluating
from supportset.train.model.model import SupportSetModel
from supportset.train.model.support import mix, nearest, support_weights


@dataclass(frozen=True)
class SupportExample:
    """One caption and its support set.

    Attributes
    ----------
    caption : Caption
    weights : list of (str, float)
        Clips of the support set, the heaviest first.
    entropy : float
        Of the weights, in nats.
    written : str
        What the decoder writes from the weighted mixture of the clips.
    """

    caption: Caption
    weights: list[tuple[str, float]]
    entropy: float
    written: str


def support_examples(
    model: SupportSetModel,
    text: NDArray[np.floating],
    clips: ClipFeatures,
    captions: Sequence[Caption],
    *,
    size: int,
    count: int,
    max_tokens: int,
    beams: int = 3,
    seed: int = 0,
) -> list[SupportExample]:
    """Support sets of some captions, by the run's own variant, in a random group of the size of a batch.

    The memory bank, which exists only in training, is left out.

    Parameters
    ----------
    model : SupportSetModel
        With a decoder.
    text : (N, d) float
        Embeddings of ``captions``.
    clips : ClipFeatures
        Resident features of the gallery.
    size : int
        Clips of the group.
    count : int
        Captions to show, each of another clip.
    max_tokens : int
        Of a written caption.
    beams : int
        Width of the beam search.
    seed : int
        Of the group.

    Raises
    ------
    ValueError
        A model without a decoder.
    """
    if model.decoder is None:
        raise ValueError("a model without captioning has no support sets")
    owner = owners(captions, clips.clip_ids)
    groups = caption_groups(owner, len(clips), size, np.random.default_rng(seed))
    group, rows = next(groups, (np.zeros(0, np.int64), np.zeros(0, np.int64)))
    rows = rows[np.unique(owner[rows], return_index=True)[1]][:count]
    if not len(rows):
        return []
    settings, device = model.config.support, next(model.parameters()).device
    with evaluating(model):
        values, mask = clips.gather(group)
        codes = model.encode_video(values.to(device).float(), mask.to(device))
        own = torch.as_tensor(owner[rows][:, None] == group[None], device=device)
        mine = torch.as_tensor(np.asarray(text)[rows], device=device, dtype=codes.embedding.dtype)
        similar = torch.nn.functional.normalize(mine, dim=1) @ torch.nn.functional.normalize(codes.embedding, dim=1).T
        allowed = None
        if settings.top_k is not None:
            allowed = nearest(similar, ~own, own, settings.top_k, settings.captioning)
        support = support_weights(similar, own, settings.captioning, settings.temperature, allowed)
        mixture, covered = mix(support, codes.sequence, codes.mask)
        written = model.detokenize(model.decoder.generate(mixture, covered, max_tokens, beams)[:, 1:].tolist())
        weights, entropy = support.weights().float().cpu().numpy(), support.entropy().tolist()
    found = []
    for row, each, nats, sentence in zip(rows, weights, entropy, written, strict=True):
        heaviest = [place for place in np.argsort(-each, kind="stable") if each[place] > 0]
        pairs = [(clips.clip_ids[int(group[place])], float(each[place])) for place in heaviest]
        found.append(SupportExample(captions[int(row)], pairs, nats, sentence))
    return found
