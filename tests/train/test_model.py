"""The whole model: what its losses promise, and how it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from supportset.store.errors import UsageError
from supportset.train.config import OptimConfig
from supportset.train.model import objective
from supportset.train.model.batch import Batch
from supportset.train.model.losses import contrastive_loss
from supportset.train.model.memory_bank import MemoryBank
from supportset.train.model.support import mix, support_weights
from tests.train.small_models import (
    CAPTIONS,
    reduced_paper_config,
    save_small_t5,
    small_batch,
    small_config,
    small_model,
)
from tests.train.test_text_encoder import save_small_bert

pytestmark = pytest.mark.slow

VARIANTS = ["none", "identity", "full", "hybrid", "cross"]


def permuted(batch: Batch, captions: list[int], clips: list[int]) -> Batch:
    """The same batch with its captions and its clips in another order."""
    new_row = torch.argsort(torch.tensor(clips))
    return replace(
        batch,
        features=batch.features[clips],
        feature_mask=batch.feature_mask[clips],
        text_ids=batch.text_ids[captions],
        text_mask=batch.text_mask[captions],
        labels=None if batch.labels is None else batch.labels[captions],
        caption_clip=new_row[batch.caption_clip[captions]],
    )


@pytest.mark.parametrize("captioning", VARIANTS)
def test_total_is_contrastive_plus_weighted_captioning(captioning: str) -> None:
    model = small_model(small_config(support={"captioning": captioning}, loss={"caption_weight": 3.0}))
    losses = model(small_batch(model))
    expected = losses.contrastive + (0.0 if captioning == "none" else 3.0 * losses.captioning)
    torch.testing.assert_close(losses.total, expected)
    assert (losses.captioning.item() == 0.0) is (captioning == "none")
    assert (model.decoder is None) is (captioning == "none")
    assert all(value.ndim == 0 and not value.requires_grad for value in losses.stats.values())
    assert ("support_entropy" in losses.stats) is (captioning != "none")


def test_embeddings_have_unit_length() -> None:
    model = small_model()
    batch = small_batch(model)
    video = model.encode_video(batch.features, batch.feature_mask).embedding
    text = model.encode_text(batch.text_ids, batch.text_mask)
    assert video.shape == (3, 16)
    assert text.shape == (6, 16)
    torch.testing.assert_close(video.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("captioning", ["identity", "full", "hybrid", "cross"])
def test_captioning_is_the_mean_over_captions_of_their_likelihood(captioning: str) -> None:
    model = small_model(small_config(support={"captioning": captioning, "temperature": 0.3}))
    batch = small_batch(model)
    assert batch.labels is not None
    assert model.decoder is not None
    video = model.encode_video(batch.features, batch.feature_mask)
    text = model.encode_text(batch.text_ids, batch.text_mask)
    own = batch.caption_clip[:, None] == torch.arange(3)
    support = support_weights(text @ video.embedding.T, own, captioning, 0.3)
    mixture, covered = mix(support, video.sequence, video.mask)
    each = [
        model.decoder(mixture[i : i + 1, covered[i]], covered[i : i + 1, covered[i]], batch.labels[i : i + 1]).item()
        for i in range(6)
    ]
    losses = model(batch)
    assert losses.captioning.item() == pytest.approx(sum(each) / 6, rel=1e-5)
    assert losses.stats["support_entropy"].item() == pytest.approx(support.entropy().mean().item(), rel=1e-5)
    assert losses.stats["captions_without_support"].item() == 0


def test_identity_is_ordinary_captioning() -> None:
    model = small_model(small_config(support={"captioning": "identity"}))
    batch = small_batch(model)
    assert model.decoder is not None
    assert batch.labels is not None
    video = model.encode_video(batch.features, batch.feature_mask)
    clips = batch.caption_clip
    ordinary = model.decoder(video.sequence[clips], video.mask[clips], batch.labels).mean()
    torch.testing.assert_close(model(batch).captioning, ordinary)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("captioning", VARIANTS)
def test_order_in_the_batch_does_not_matter(captioning: str, norm: str) -> None:
    sections: dict[str, Any] = {"video": {"norm": norm}, "text": {"norm": norm}, "support": {"captioning": captioning}}
    model = small_model(small_config(**sections)).double()
    batch = small_batch(model)
    batch = replace(batch, features=batch.features.double())
    losses = model(batch)
    moved = model(permuted(batch, [4, 0, 3, 5, 1, 2], [2, 0, 1]))
    torch.testing.assert_close(moved.total, losses.total, rtol=1e-6, atol=1e-6)
    for name, value in losses.stats.items():
        torch.testing.assert_close(moved.stats[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_padding_changes_nothing(norm: str) -> None:
    model = small_model(small_config(video={"norm": norm}, text={"norm": norm}))
    batch = small_batch(model)
    assert batch.labels is not None
    expected = model(batch)
    expected.total.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()

    def widen(values: torch.Tensor, filler: float) -> torch.Tensor:
        extra = values.new_full((values.shape[0], 3, *values.shape[2:]), filler)
        return torch.cat([values, extra], dim=1)

    padded = replace(
        batch,
        features=widen(batch.features.masked_fill(~batch.feature_mask[..., None], 77.0), torch.nan),
        feature_mask=widen(batch.feature_mask, False),
        text_ids=widen(batch.text_ids.masked_fill(~batch.text_mask, 5), 9),
        text_mask=widen(batch.text_mask, False),
        labels=widen(batch.labels, -100),
    )
    losses = model(padded)
    torch.testing.assert_close(losses.total, expected.total, rtol=1e-4, atol=1e-4)
    losses.total.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for before, after in zip(gradients, found, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-2, atol=2e-3)


def test_cross_with_one_clip_has_no_captioning_term() -> None:
    model = small_model(small_config(loss={"caption_weight": 3.0}))
    losses = model(small_batch(model, CAPTIONS[:2], [0, 0], [4]))
    losses.total.backward()
    assert losses.stats["captions_without_support"].item() == 2
    assert losses.captioning.item() == 0.0
    assert losses.total.item() == 0.0  # nor is there a negative
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_own_clip_does_not_help_to_write_its_captions() -> None:
    """Under `cross` the mixture of a caption does not depend on the codes of its clip, whoever's caption it is."""
    model = small_model(small_config(support={"captioning": "cross"}))
    batch = small_batch(model)
    video = model.encode_video(batch.features, batch.feature_mask)
    text = model.encode_text(batch.text_ids, batch.text_mask)
    assert batch.labels is not None
    for clip in range(3):
        changed = video.sequence.clone()
        changed[clip] += 1.0
        kept = batch.caption_clip == clip
        labels = batch.labels.masked_fill(~kept[:, None], -100)  # only this clip's captions have tokens
        before = objective.objective(model.config, model.decoder, text, video, batch.caption_clip, labels).captioning
        after = objective.objective(
            model.config, model.decoder, text, video._replace(sequence=changed), batch.caption_clip, labels
        ).captioning
        assert torch.equal(before, after)


def test_the_bottleneck_passes_gradients_into_both_embeddings() -> None:
    model = small_model(small_config(support={"captioning": "cross"}))
    batch = small_batch(model)
    video = model.encode_video(batch.features, batch.feature_mask)
    text = model.encode_text(batch.text_ids, batch.text_mask)
    losses = objective.objective(model.config, model.decoder, text, video, batch.caption_clip, batch.labels)
    for_text, for_video = torch.autograd.grad(losses.captioning, [text, video.embedding])
    assert (for_text.norm(dim=1) > 0).all()
    assert (for_video.norm(dim=1) > 0).all()


@pytest.mark.parametrize("override", [None, {"contrastive": "infonce"}, {"negatives": "summed"}, {"margin": 0.4}])
@pytest.mark.parametrize("intra", [False, True])
def test_the_configured_contrastive_loss_is_computed_unless_replaced(
    override: dict[str, Any] | None, intra: bool
) -> None:
    model = small_model(small_config(loss={"margin": 0.3, "temperature": 0.2, "intra": intra}))
    batch = small_batch(model)
    meant = model.config.loss.model_copy(update=override)
    expected = contrastive_loss(
        meant,
        model.encode_text(batch.text_ids, batch.text_mask),
        model.encode_video(batch.features, batch.feature_mask).embedding,
        batch.caption_clip,
    )
    torch.testing.assert_close(model(batch, loss=meant if override else None).contrastive, expected)


@pytest.mark.parametrize("captioning", VARIANTS)
def test_a_tiny_batch_is_learnt_by_heart(captioning: str) -> None:
    model = small_model(
        small_config(support={"captioning": captioning}, decoder={"width": 32}, loss={"caption_weight": 1.0})
    )
    batch = small_batch(model)
    optimiser = torch.optim.Adam(model.parameter_groups(OptimConfig(learning_rate=5e-3)))
    first, warmup = model(batch), model.config.loss.model_copy(update={"contrastive": "infonce"})
    for _ in range(70):
        optimiser.zero_grad()
        model(batch, loss=warmup).total.backward()
        optimiser.step()
    last = model(batch)
    assert last.contrastive.item() < 0.05 < 0.3 < first.contrastive.item()  # by the hinge loss
    if captioning != "none":
        assert last.captioning.item() < 0.5 < first.captioning.item() / 4


def test_parameter_groups_tell_pretrained_from_fresh(tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    config = small_config(
        text={"encoder": "t5", "name": str(tmp_path), "head": "gru"}, decoder={"kind": "t5", "name": str(tmp_path)}
    )
    model = small_model(config)
    groups = {
        group["name"]: group
        for group in model.parameter_groups(OptimConfig(learning_rate=1e-4, head_learning_rate=1e-3, weight_decay=0.1))
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [id(parameter) for group in groups.values() for parameter in group["params"]]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(listed) == sorted(trainable)
    for group, lr, decay in (
        ("pretrained", 1e-4, 0.1),
        ("pretrained, no decay", 1e-4, 0.0),
        ("fresh", 1e-3, 0.1),
        ("fresh, no decay", 1e-3, 0.0),
    ):
        assert (groups[group]["lr"], groups[group]["weight_decay"]) == (lr, decay)
        old = {names[id(p)].startswith(("text.backbone.", "decoder.t5.")) for p in groups[group]["params"]}
        assert old == {group.startswith("pretrained")}
        assert {p.ndim > 1 for p in groups[group]["params"]} == {"no decay" not in group}
    same = model.parameter_groups(OptimConfig(learning_rate=1e-4))
    assert {group["lr"] for group in same} == {1e-4}


def test_frozen_text_is_in_no_group(tmp_path: Path) -> None:
    save_small_bert(tmp_path)
    model = small_model(
        small_config(
            text={"encoder": "hf", "name": str(tmp_path), "finetune": False, "head": "mean"},
            support={"captioning": "none"},
        )
    )
    listed = {id(p) for group in model.parameter_groups(OptimConfig()) for p in group["params"]}
    assert not listed & {id(p) for p in model.text.backbone.parameters()}
    assert not model.train().text.backbone.training


def test_captions_longer_than_the_encoder_reads_are_refused(tmp_path: Path) -> None:
    save_small_bert(tmp_path)
    config = small_config(data={"max_tokens": 41}, text={"encoder": "hf", "name": str(tmp_path)})
    with pytest.raises(UsageError, match=r"data\.max_tokens = 41.*at most 40"):
        small_model(config)


def test_captioning_asks_for_labels() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="labels"):
        model(replace(small_batch(model), labels=None))
    bare = small_model(small_config(support={"captioning": "none"}))
    with pytest.raises(ValueError, match="no label tokenizer"):
        bare.tokenize_labels(["a"], 4)


def test_bfloat16_autocast_keeps_similarities_in_float32() -> None:
    model = small_model()
    batch = small_batch(model)
    full = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch)
        assert model.encode_text(batch.text_ids, batch.text_mask).dtype == torch.float32
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(half.contrastive, full.contrastive, rtol=0.05, atol=0.02)
    torch.testing.assert_close(half.captioning, full.captioning, rtol=0.05, atol=0.05)
    half.total.backward()


@pytest.mark.parametrize("name", ["paper-msrvtt", "paper-vatex", "paper-msvd", "paper-activitynet"])
def test_the_papers_configuration_trains_at_reduced_size(name: str, tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    config = reduced_paper_config(tmp_path, name, ("optim.learning_rate=1e-3",))
    assert config.support.captioning == "cross"
    assert (config.text.encoder, config.text.head, config.decoder.kind) == ("t5", "gru", "t5")
    assert (config.video.norm, config.loss.warmup, config.loss.negatives) == ("batch", "none", "hardest")
    model = small_model(config, feature_dim=10)
    batch = small_batch(model)
    optimiser = torch.optim.Adam(model.parameter_groups(config.optim))
    totals = []
    for _ in range(8):
        optimiser.zero_grad()
        losses = model(batch)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.max_grad_norm)
        optimiser.step()
        totals.append(losses.total.item())
    assert sum(totals[-2:]) < sum(totals[:2])


@pytest.mark.parametrize("settings", [{}, {"bank": 80}])
def test_captioning_may_leave_the_text_alone(settings: dict[str, Any]) -> None:
    def text_gradient(learns: bool) -> float:
        model = small_model(small_config(support={"captioning": "cross", "text_gradient": learns, **settings}))
        bank = None
        if settings:
            bank = MemoryBank(80, dim=model.config.dim, width=model.config.video.width, positions=8)
            earlier = small_batch(model, seed=1)
            bank.add(["a", "b", "c"], model(earlier).codes, 0)
        losses = model(small_batch(model), bank=bank)
        losses.captioning.backward()
        assert sum(float(p.grad.abs().sum()) for p in model.video.parameters() if p.grad is not None) > 0
        return sum(float(p.grad.abs().sum()) for p in model.text.parameters() if p.grad is not None)

    assert text_gradient(True) > 0
    assert text_gradient(False) == 0


@pytest.mark.parametrize("bank", [0, 80])
def test_captioning_may_teach_the_video_through_what_is_mixed_alone(bank: int) -> None:
    """The gradient is then what it is with the same weights as constants; with both paths it is another."""

    def gradients(monkeypatch: pytest.MonkeyPatch | None = None, **support: bool) -> list[torch.Tensor]:
        model = small_model(small_config(support={"captioning": "cross", "bank": bank, **support}))
        entries = None
        if bank:
            entries = MemoryBank(bank, dim=model.config.dim, width=model.config.video.width, positions=8)
            entries.add(["a", "b", "c"], model(small_batch(model, seed=1)).codes, 0)
        if monkeypatch is not None:
            plain = objective.support_weights
            monkeypatch.setattr(objective, "support_weights", lambda given, *rest: plain(given.detach(), *rest))
        model(small_batch(model), bank=entries).captioning.backward()
        given = [p.grad for p in model.video.parameters() if p.grad is not None]
        assert sum(float(each.abs().sum()) for each in given) > 0
        return given

    with pytest.MonkeyPatch.context() as monkeypatch:
        constant = gradients(monkeypatch)
    stopped = gradients(text_gradient=False, video_gradient=False)
    assert len(constant) == len(stopped)
    for one, other in zip(constant, stopped, strict=True):
        torch.testing.assert_close(one, other)
    both = gradients()
    assert any(not torch.allclose(one, other) for one, other in zip(constant, both, strict=True))


def test_the_nearest_clip_alone_has_all_the_weight() -> None:
    model = small_model(small_config(support={"captioning": "cross", "top_k": 1}))
    losses = model(small_batch(model))
    assert float(losses.stats["support_entropy"]) == 0.0
    everyone = small_model(small_config(support={"captioning": "cross", "top_k": 2}))
    wide = small_model(small_config(support={"captioning": "cross"}))
    batch = small_batch(wide)  # of three clips: two are all the others
    torch.testing.assert_close(everyone(batch).total, wide(batch).total)
