"""Support weights and the mixture of video codes against loops written from the definition."""

from __future__ import annotations

import math

import pytest
import torch

from supportset.train.model.support import Support, mix, nearest, support_weights

CLIPS = torch.tensor([0, 0, 1, 3])
OWN = CLIPS[:, None] == torch.arange(4)
LENGTHS = torch.tensor([4, 2, 5, 1])
VARIANTS = ["identity", "full", "hybrid", "cross"]


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    similarities = torch.rand(4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    mask = torch.arange(5)[None] < LENGTHS[:, None]
    codes = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64) * mask[..., None]
    return similarities, codes, mask


def naive_weights(similarities: torch.Tensor, variant: str, temperature: float) -> list[list[float]]:
    rows = []
    for i, clip in enumerate(CLIPS.tolist()):
        members = {"identity": [clip], "cross": [j for j in range(4) if j != clip]}.get(variant, list(range(4)))
        powers = {j: math.exp(float(similarities[i, j]) / temperature) for j in members}
        row = [powers.get(j, 0.0) / sum(powers.values()) for j in range(4)]
        if variant == "hybrid":
            row = [(weight + (j == clip)) / 2 for j, weight in enumerate(row)]
        rows.append(row)
    return rows


def naive_mixture(
    weights: list[list[float]], codes: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    mixture = torch.zeros(len(weights), codes.shape[1], codes.shape[2], dtype=codes.dtype)
    covered = torch.zeros(len(weights), codes.shape[1], dtype=torch.bool)
    for i, row in enumerate(weights):
        for m in range(codes.shape[1]):
            present = [j for j in range(len(codes)) if mask[j, m] and row[j] > 0]
            if present:
                covered[i, m] = True
                mass = sum(row[j] for j in present)
                mixture[i, m] = sum(row[j] / mass * codes[j, m] for j in present)
    return mixture, covered


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_and_mixture_equal_the_naive_loop(variant: str) -> None:
    similarities, codes, mask = case()
    support = support_weights(similarities, OWN, variant, 0.5)
    expected = naive_weights(similarities, variant, 0.5)
    torch.testing.assert_close(support.weights(), torch.tensor(expected, dtype=torch.float64))
    mixture, covered = mix(support, codes, mask)
    naive, positions = naive_mixture(expected, codes, mask)
    torch.testing.assert_close(mixture, naive)
    assert torch.equal(covered, positions)
    entropy = [-sum(w * math.log(w) for w in row if w > 0) for row in expected]
    torch.testing.assert_close(support.entropy(), torch.tensor(entropy, dtype=torch.float64))


def test_cross_leaves_out_the_own_clip_for_every_caption_of_it() -> None:
    similarities, codes, mask = case()
    weights = support_weights(similarities, OWN, "cross", 0.1).weights()
    assert torch.equal(weights[OWN], torch.zeros(4, dtype=torch.float64))
    # Position 4 exists in clip 2 alone, and no caption here describes it: every caption may read it.
    _, covered = mix(support_weights(similarities, OWN, "cross", 0.1), codes, mask)
    assert covered[:, 4].all()
    other = torch.tensor([2, 2, 2, 2])[:, None] == torch.arange(4)
    _, covered = mix(support_weights(similarities, other, "cross", 0.1), codes, mask)
    assert not covered[:, 4].any()


def test_identity_is_the_own_clip() -> None:
    similarities, codes, mask = case()
    mixture, covered = mix(support_weights(similarities, OWN, "identity", 0.1), codes, mask)
    assert torch.equal(mixture, codes[CLIPS])
    assert torch.equal(covered, mask[CLIPS])


@pytest.mark.parametrize("variant", ["full", "hybrid", "cross"])
def test_gradients_flow_through_the_weights_into_both_embeddings(variant: str) -> None:
    _, codes, mask = case()
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    video = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    codes.requires_grad_()

    def mixed(text: torch.Tensor, video: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        similarities = torch.nn.functional.normalize(text, dim=1) @ torch.nn.functional.normalize(video, dim=1).T
        codes = codes * mask[..., None]
        return mix(support_weights(similarities, OWN, variant, 0.3), codes, mask)[0]

    assert torch.autograd.gradcheck(mixed, (text, video, codes))
    mixed(text, video, codes).square().sum().backward()
    assert (text.grad.abs().sum(1) > 0).all()
    assert (video.grad.abs().sum(1) > 0).all()


def test_a_position_that_only_vanishing_weights_have_gets_their_exact_mixture() -> None:
    # exp(-400) is zero in float32: dividing by the sum of the weights there would give 0 / 0.
    similarities = torch.tensor([[1.0, -0.6, -0.59, -1.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True], [True, True], [True, False]])
    codes = torch.arange(8.0).reshape(4, 2, 1) * mask[..., None]
    own = torch.tensor([[False, False, False, True]])
    mixture, covered = mix(support_weights(similarities, own, "cross", 0.004), codes, mask)
    weight = 1 / (1 + math.exp(0.01 / 0.004))
    assert covered.all()
    assert mixture[0, 0, 0].item() == pytest.approx(0.0, abs=1e-6)
    assert mixture[0, 1, 0].item() == pytest.approx(weight * 3.0 + (1 - weight) * 5.0, rel=1e-4)
    mixture.sum().backward()
    assert torch.isfinite(similarities.grad).all()
    assert similarities.grad.abs().sum() > 0


def test_an_empty_support_set_is_told_and_harmless() -> None:
    similarities = torch.tensor([[0.5], [0.2]], requires_grad=True)
    own = torch.ones(2, 1, dtype=torch.bool)
    support = support_weights(similarities, own, "cross", 0.1)
    mixture, covered = mix(support, torch.ones(1, 3, 2), torch.ones(1, 3, dtype=torch.bool))
    assert not support.nonempty.any()
    assert not covered.any()
    assert torch.equal(mixture, torch.zeros(2, 3, 2))
    assert torch.equal(support.entropy(), torch.zeros(2))
    mixture.sum().backward()
    assert torch.equal(similarities.grad, torch.zeros(2, 1))
    # The other variants hold the caption's own clip.
    for variant in ("identity", "full", "hybrid"):
        kept = support_weights(similarities, own, variant, 0.1)
        assert torch.equal(kept.weights(), torch.ones(2, 1))


def test_half_precision_similarities_are_weighed_in_float32() -> None:
    support = support_weights(torch.tensor([[0.9, 0.1]], dtype=torch.bfloat16), OWN[:1, :2], "full", 0.1)
    assert support.log_weights.dtype == torch.float32


def test_none_has_no_support_set() -> None:
    with pytest.raises(ValueError, match="no support set"):
        support_weights(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), "none", 0.1)


def test_support_tells_its_weights_apart_from_what_is_outside() -> None:
    support = Support(torch.zeros(1, 2), torch.tensor([[True, False]]))
    assert torch.equal(support.weights(), torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize(("variant", "expected"), [("cross", [[1, 3], [2, 3]]), ("full", [[3], [2]])])
def test_the_nearest_are_the_most_similar_of_those_allowed(variant: str, expected: list[list[int]]) -> None:
    similarities = torch.tensor([[0.9, 0.3, 0.2, 0.8], [0.1, 0.9, 0.5, 0.2]])
    own = torch.tensor([[True, False, False, False], [False, True, False, False]])
    allowed = torch.ones_like(own)
    allowed[1, 0] = False
    found = nearest(similarities, allowed, own, 2, variant)
    assert [row.nonzero().flatten().tolist() for row in found] == expected  # beside the own clip where it may be there
    everyone = nearest(similarities, allowed, own, 9, variant)
    assert torch.equal(everyone, allowed & ~own)
