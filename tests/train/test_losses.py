"""Contrastive losses against loops written from the formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from supportset.train.config import LossConfig
from supportset.train.model.losses import contrastive_loss

CLIPS = torch.tensor([0, 0, 1, 2, 2, 3])


KINDS = {
    kind: LossConfig(**settings, margin=0.2, temperature=0.1)  # type: ignore[arg-type]
    for kind, settings in {
        "hardest": {"negatives": "hardest"},
        "summed": {"negatives": "summed"},
        "infonce": {"contrastive": "infonce"},
    }.items()
}


def embeddings(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(6, 5, generator=generator, dtype=dtype), dim=1)
    video = F.normalize(torch.randn(4, 5, generator=generator, dtype=dtype), dim=1)
    return text, video


def views(text: torch.Tensor, video: torch.Tensor, intra: bool) -> list[list[tuple[float, list[float]]]]:
    """For each caption and each view: the positive similarity and the negatives' similarities."""

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b)

    captions = []
    for i, clip in enumerate(CLIPS.tolist()):
        others = [c for c in range(len(video)) if c != clip]
        strangers = [j for j in range(len(text)) if CLIPS[j] != clip]
        positive = cosine(text[i], video[clip])
        found = [
            (positive, [cosine(text[i], video[c]) for c in others]),
            (positive, [cosine(text[j], video[clip]) for j in strangers]),
        ]
        if intra:
            found += [
                (positive, [cosine(text[i], text[j]) for j in strangers]),
                (positive, [cosine(video[clip], video[c]) for c in others]),
            ]
        captions.append(found)
    return captions


@pytest.mark.parametrize("intra", [False, True])
@pytest.mark.parametrize("negatives", ["hardest", "summed", "infonce"])
def test_equals_the_naive_loop(negatives: str, intra: bool) -> None:
    text, video = embeddings()
    total = 0.0
    for found in views(text, video, intra):
        for positive, others in found:
            hinges = [max(0.0, 0.2 - positive + other) for other in others]
            if negatives == "hardest":
                total += max(hinges)
            elif negatives == "summed":
                total += sum(hinges)
            else:
                mass = sum(math.exp(value / 0.1) for value in [positive, *others])
                total += -math.log(math.exp(positive / 0.1) / mass) / 2
    loss = contrastive_loss(KINDS[negatives].model_copy(update={"intra": intra}), text, video, CLIPS)
    assert loss.item() == pytest.approx(total / len(text), rel=1e-9)


@pytest.mark.parametrize("negatives", ["hardest", "summed", "infonce"])
def test_other_captions_of_the_clip_are_no_negatives(negatives: str) -> None:
    text, video = embeddings()
    config = KINDS[negatives].model_copy(update={"intra": True})
    text.requires_grad_()
    # One clip alone, with all its captions: there is nothing to push away.
    loss = contrastive_loss(config, text, video[:1], torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(text.grad, torch.zeros_like(text))


@pytest.mark.parametrize("negatives", ["hardest", "summed", "infonce"])
def test_order_of_captions_and_clips_does_not_matter(negatives: str) -> None:
    text, video = embeddings()
    captions = torch.tensor([3, 0, 5, 1, 4, 2])
    clips = torch.tensor([2, 0, 3, 1])
    renamed = torch.argsort(clips)[CLIPS[captions]]
    config = KINDS[negatives].model_copy(update={"intra": True})
    moved = contrastive_loss(config, text[captions], video[clips], renamed)
    assert moved.item() == pytest.approx(contrastive_loss(config, text, video, CLIPS).item(), rel=1e-12)


@pytest.mark.parametrize("negatives", ["hardest", "summed", "infonce"])
def test_gradients(negatives: str) -> None:
    text, video = (value.requires_grad_() for value in embeddings(seed=3))

    def loss(text: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        return contrastive_loss(KINDS[negatives].model_copy(update={"intra": True}), text, video, CLIPS)

    assert torch.autograd.gradcheck(loss, (text, video))


def test_collapsed_embeddings_stay_at_twice_the_margin() -> None:
    ones = F.normalize(torch.ones(6, 5), dim=1)
    loss = contrastive_loss(KINDS["hardest"], ones, ones[:4], CLIPS)
    assert loss.item() == pytest.approx(0.4)
