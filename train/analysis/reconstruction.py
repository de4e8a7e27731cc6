"""What captions are written from: the decoder's loss under a caption's own weights, and under those of others.

The decoder sees a mixture of clips, and the weights of the mixture come from the caption's own embedding. So they can
tell it two things: which clips are like the caption, as the paper wants, and what the caption itself says, as a code in
many small differences. The weights of another caption of the same clip (a sibling) point to the same kind of clips and
know nothing of this caption's wording. What is lost under them came from the caption through its weights, or is what
the sibling leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from supportset.store.format.dataset import Caption
from supportset.train.analysis.caption_groups import caption_groups, owners
from supportset.train.analysis.words import WORD, content_words
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.encode import evaluating
from supportset.train.model.decoder import IGNORED
from supportset.train.model.model import SupportSetModel
from supportset.train.model.support import mix, nearest, support_weights
from supportset.train.model.video_encoder import VideoCodes

WAYS = ("own", "sibling", "other", "uniform")
_CAPTIONS = 256  # decoded at a time
_OTHER, _UNSAID, _SAID = 0, 1, 2  # of a token: of no content word, of one said of no other clip, of one said of some


def reconstruction_stats(
    model: SupportSetModel,
    text: NDArray[np.floating],
    clips: ClipFeatures,
    captions: Sequence[Caption],
    *,
    size: int,
    seed: int = 0,
    most: int = 5000,
) -> dict[str, Any]:
    """The decoder's loss on captions whose clip is there, from groups of other clips (the ``cross`` support set).

    Parameters
    ----------
    model : SupportSetModel
        With a decoder.
    text : ndarray
        (N, d) float, embeddings of ``captions``.
    clips : ClipFeatures
        Resident features of the gallery.
    size : int
        Clips of a group.
    seed : int
        Of the groups, and of whose weights a caption is given.
    most : int
        Captions; whole groups are taken until there are so many, for a large decoder takes its time.

    Returns
    -------
    dict
        For ``said`` and ``unsaid``, the tokens of content words that captions of another clip of the group have, or
        that none has: ``tokens``, how many, and the mean loss in nats a token under the caption's ``own`` weights,
        those of a ``sibling``, another caption of its clip (over the captions that have one), of an ``other`` caption
        of the group, and ``uniform`` ones; None where there is no such token. The caption's own clip is never among
        the clips. ``temperature`` is the run's, ``captions`` how many were looked at.

    Raises
    ------
    ValueError
        Fewer than two clips, or a model without a decoder.
    """
    if model.decoder is None:
        raise ValueError("a model without captioning has no decoder")
    if len(clips) < 2:
        raise ValueError("captions written from other clips need at least two clips")
    rng = np.random.default_rng(seed)
    device = next(model.parameters()).device
    owner = owners(captions, clips.clip_ids)
    done = 0
    sums, tokens = np.zeros((3, len(WAYS))), np.zeros((3, len(WAYS)), np.int64)
    with evaluating(model):
        for group, rows in caption_groups(owner, len(clips), size, rng):
            if done >= most:
                break
            done += len(rows)
            values, mask = clips.gather(group)
            codes = model.encode_video(values.to(device).float(), mask.to(device))
            own = torch.as_tensor(owner[rows][:, None] == group[None], device=device)
            mine = torch.as_tensor(np.asarray(text)[rows], device=device, dtype=codes.embedding.dtype)
            similarities = torch.nn.functional.normalize(mine, dim=1) @ codes.embedding.T
            kinds, labels = _tokens(model, [captions[int(row)] for row in rows])
            siblings, others = _siblings(owner[rows]), _of_others(owner[rows], rng)
            for way, taken in enumerate((np.arange(len(rows)), siblings, others, None)):
                if taken is None:
                    weighed, some = torch.zeros_like(similarities), np.ones(len(rows), bool)
                else:
                    weighed, some = similarities[torch.as_tensor(taken, device=device)], taken >= 0
                losses = _losses(model, weighed, own, codes, labels).numpy()
                for kind in (_UNSAID, _SAID):
                    here = (kinds == kind) & some[:, None]
                    sums[kind, way] += losses[here].sum()
                    tokens[kind, way] += here.sum()
    found: dict[str, Any] = {"temperature": model.config.support.temperature, "captions": done}
    for name, kind in (("said", _SAID), ("unsaid", _UNSAID)):
        counted = zip(WAYS, sums[kind], tokens[kind], strict=True)
        means = {way: float(loss / count) if count else None for way, loss, count in counted}
        found[name] = {"tokens": int(tokens[kind, 0])} | means
    return found


def describe_reconstruction(found: dict[str, Any]) -> list[str]:
    """What `reconstruction_stats` found, for people."""
    lines = [
        "  decoder's loss    nats a token, under the weights of the caption / of another of its clip / of another "
        "clip's / uniform"
    ]
    for name, words in (("said", "words said of another clip"), ("unsaid", "words said of none")):
        each = found[name]
        if each["tokens"]:
            losses = " / ".join("-" if each[way] is None else f"{each[way]:.2f}" for way in WAYS)
            lines.append(f"    {words:<27} {losses}   ({each['tokens']:,} tokens)")
    return lines


def _losses(model: SupportSetModel, similarities: Tensor, own: Tensor, codes: VideoCodes, labels: Tensor) -> Tensor:
    """(N, L) of each token, written from the clips that are not the caption's own."""
    assert model.decoder is not None
    settings, losses = model.config.support, []
    for start in range(0, len(labels), _CAPTIONS):
        part = slice(start, start + _CAPTIONS)
        allowed = None
        if settings.top_k is not None:
            allowed = nearest(similarities[part], ~own[part], own[part], settings.top_k, "cross")
        support = support_weights(similarities[part], own[part], "cross", settings.temperature, allowed)
        mixture, covered = mix(support, codes.sequence, codes.mask)
        losses.append(model.decoder.token_losses(mixture, covered, labels[part].to(mixture.device)).float().cpu())
    return torch.cat(losses)


def _siblings(owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each caption the place of the next one of its clip, in a circle; -1 where it is the only one."""
    found = np.full(len(owner), -1)
    for clip in np.unique(owner):
        places = np.flatnonzero(owner == clip)
        if len(places) > 1:
            found[places] = np.roll(places, -1)
    return found


def _of_others(owner: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each caption the place of one of another clip, or its own place where there is none; each is taken once."""
    order = rng.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]  # captions of a clip together
    most = int(np.bincount(owner).max())
    taken = np.empty_like(order)
    taken[order] = np.roll(order, -most)  # further than any clip's captions reach
    return taken


def _tokens(model: SupportSetModel, captions: Sequence[Caption]) -> tuple[NDArray[np.int64], Tensor]:
    """(N, L) kinds of tokens, -1 where padded, and (N, L) labels."""
    said: dict[str, set[str]] = {}
    for caption in captions:
        for word in content_words(caption.text):
            said.setdefault(word, set()).add(caption.clip_id)
    texts = [caption.text for caption in captions]
    limit = model.config.data.max_tokens
    labels = model.tokenize_labels(texts, limit)
    kinds = []
    for caption, ids, places in zip(captions, labels, model.label_places(texts, limit), strict=True):
        words = [
            (match.span(), _SAID if said[word] - {caption.clip_id} else _UNSAID)
            for match in WORD.finditer(caption.text)
            if (word := match.group().lower()) in said
        ]
        row = np.full(len(ids), _OTHER)
        for (start, end), kind in words:
            row[[i for i, (first, last) in enumerate(places) if first < end and last > start]] = kind
        kinds.append(torch.as_tensor(row))
    padded = pad_sequence([torch.as_tensor(ids) for ids in labels], batch_first=True, padding_value=IGNORED)
    return pad_sequence(kinds, batch_first=True, padding_value=-1).numpy(), padded
