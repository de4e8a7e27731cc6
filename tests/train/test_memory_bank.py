"""The memory bank: who is kept, for how long, who may use it; and that it changes nothing where it should not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from supportset.store.errors import UsageError
from supportset.train.loop.training import train
from supportset.train.model.batch import Batch
from supportset.train.model.memory_bank import MemoryBank
from supportset.train.model.model import SupportSetModel
from supportset.train.model.support import draw, mix, support_weights
from supportset.train.model.video_encoder import VideoCodes
from tests.train.small_models import small_batch, small_config, small_model
from tests.train.small_store import config, plant

VARIANTS = ["full", "hybrid", "cross"]


def codes(clips: int, seed: int = 0, positions: int = 4, dtype: torch.dtype = torch.float64) -> VideoCodes:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, positions + 1, (clips,), generator=generator)
    mask = torch.arange(positions)[None] < lengths[:, None]
    embedding = F.normalize(torch.randn(clips, 5, generator=generator, dtype=dtype), dim=1)
    sequence = torch.randn(clips, positions, 3, generator=generator, dtype=dtype) * mask[..., None]
    return VideoCodes(embedding, sequence, mask)


def bank_of(places: int, positions: int = 4, **options: Any) -> MemoryBank:
    return MemoryBank(places, dim=5, width=3, positions=positions, dtype=torch.float64, **options)


def bank_for(model: SupportSetModel, places: int, positions: int = 8) -> MemoryBank:
    return MemoryBank(places, dim=model.config.dim, width=model.config.video.width, positions=positions)


def rows(of: VideoCodes, which: list[int]) -> VideoCodes:
    return VideoCodes(of.embedding[which], of.sequence[which], of.mask[which])


def test_the_newest_codes_of_the_most_recent_clips_are_kept() -> None:
    rng = np.random.default_rng(0)
    bank, kept = bank_of(7), {}
    for step in range(60):
        clips = [f"c{number}" for number in rng.permutation(15)[: rng.integers(1, 6)]]
        given = codes(len(clips), seed=step)
        bank.add(clips, given, step)
        kept |= {clip: (step, rows(given, [place])) for place, clip in enumerate(clips)}
        newest = sorted((step for step, _ in kept.values()), reverse=True)[:7]
        entries = bank.entries([], step + 1)
        assert sorted(bank.steps[bank.steps >= 0].tolist(), reverse=True) == newest
        assert len(bank) == len(newest) == len(set(bank.clip_ids) - {""})
        for place, clip in enumerate(bank.clip_ids):
            if clip:
                age, expected = kept[clip]
                assert bank.steps[place] == age
                for mine, theirs in zip(entries.codes, expected, strict=True):
                    assert torch.equal(mine[place], theirs[0])


def test_old_entries_are_dropped_and_told() -> None:
    bank = bank_of(6, max_age=2)
    bank.add(["a", "b"], codes(2), 0)
    bank.add(["c", "d", "e"], codes(3), 1)
    bank.add(["b"], codes(1), 2)
    entries = bank.entries(["d"], 3)
    assert {bank.clip_ids[place] for place in entries.usable[0].nonzero().flatten().tolist()} == {"b", "c", "e"}
    assert entries.stats == {
        "bank_entries": 3.0,
        "bank_age_mean": pytest.approx(5 / 3),
        "bank_age_max": 2.0,
        "bank_dropped": 0.2,
    }
    assert bank.entries([], 9).stats == {
        "bank_entries": 0.0, "bank_age_mean": 0.0, "bank_age_max": 0.0, "bank_dropped": 1.0,
    }  # fmt: skip
    assert len(bank) == 0
    bank.add(["f"], codes(1), 9)
    assert bank.entries(["x"], 10).usable.sum() == 1


def test_more_clips_than_places_are_refused() -> None:
    with pytest.raises(ValueError, match="3 clips do not fit into 2 places"):
        bank_of(2).add(["a", "b", "c"], codes(3), 0)


def test_a_bank_that_holds_the_batch_gives_the_mixture_of_full() -> None:
    batch = codes(4)
    bank = bank_of(6, positions=5)
    bank.add(["a", "b", "c", "d"], batch, 0)
    entries = bank.entries([], 1)
    text = F.normalize(torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=1)
    own = torch.tensor([0, 3, 3])[:, None] == torch.arange(4)
    expected, positions = mix(support_weights(text @ batch.embedding.T, own, "full", 0.1), batch.sequence, batch.mask)
    there = torch.from_numpy(bank.steps >= 0).expand(3, 6)
    support = support_weights(text @ entries.codes.embedding.T, torch.zeros_like(there), "full", 0.1, there)
    mixture, covered = mix(support, entries.codes.sequence, entries.codes.mask)
    torch.testing.assert_close(mixture[:, :4], expected)
    assert torch.equal(covered[:, :4], positions)
    assert not covered[:, 4].any()
    assert torch.equal(mixture[:, 4], torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bank_of_the_batchs_own_clips_changes_nothing(variant: str) -> None:
    model = small_model(small_config(support={"captioning": variant})).eval()
    batch = small_batch(model)
    plain = model(batch)
    bank = bank_for(model, 5)
    assert plain.codes is not None
    stale = VideoCodes(-plain.codes.embedding, plain.codes.sequence + 1e6, plain.codes.mask)
    bank.add(batch.clip_ids, stale, 0)
    with_bank = model(batch, bank=bank, step=1)
    torch.testing.assert_close(with_bank.captioning, plain.captioning)
    torch.testing.assert_close(with_bank.contrastive, plain.contrastive, rtol=0, atol=0)
    assert with_bank.stats["bank_weight"] == 0
    assert with_bank.stats["bank_entries"] == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_supports_from_the_bank_as_it_would_from_the_batch(variant: str) -> None:
    model = small_model(small_config(support={"captioning": variant})).double().eval()
    lengths = [5, 2, 3, 6, 1]
    whole = small_batch(model, lengths=lengths)  # captions of the first three clips alone
    whole.features = whole.features.double()
    part = first_clips(whole, 3, steps=5)
    everything = model(whole)
    bank = MemoryBank(4, dim=16, width=16, positions=9, dtype=torch.float64)
    assert everything.codes is not None
    bank.add(whole.clip_ids[3:], rows(everything.codes, [3, 4]), 0)
    found = model(part, bank=bank, step=1)
    torch.testing.assert_close(found.captioning, everything.captioning)
    torch.testing.assert_close(found.stats["support_entropy"], everything.stats["support_entropy"])
    assert found.stats["bank_weight"] > 0
    torch.testing.assert_close(found.contrastive, model(part).contrastive, rtol=0, atol=0)  # no negatives from it


def first_clips(batch: Batch, clips: int, steps: int) -> Batch:
    return Batch(
        batch.features[:clips, :steps], batch.feature_mask[:clips, :steps], batch.text_ids, batch.text_mask,
        batch.labels, batch.caption_clip, batch.clip_ids[:clips], batch.caption_ids,
    )  # fmt: skip


def test_gradients_pass_through_the_weights_and_stop_at_the_entries() -> None:
    model = small_model(small_config(support={"captioning": "cross"}))
    batch = small_batch(model)
    bank = bank_for(model, 6)
    bank.add(["x", "y", "z"], model(small_batch(model, seed=4)).codes, 0)
    before = [part.clone() for part in bank.entries([], 1).codes]
    losses = model(batch, bank=bank, step=1)
    losses.captioning.backward()
    assert not bank.embedding.requires_grad
    assert not bank.sequence.requires_grad
    assert model.text.embed.weight.grad.abs().sum() > 0
    bank.add(batch.clip_ids, losses.codes, 1)  # only now: the backward pass reads the entries
    after = bank.entries([], 2).codes
    assert all(torch.equal(then[:3], now[:3]) for then, now in zip(before, after, strict=True))


def test_gradcheck_with_entries_beside_the_batch() -> None:
    batch, more = codes(3), codes(2, seed=9, positions=6)
    own = torch.tensor([0, 1, 1])[:, None] == torch.arange(5)
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    video = batch.embedding.clone().requires_grad_()
    sequence = batch.sequence.clone().requires_grad_()
    allowed = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]]).bool()

    def mixed(text: torch.Tensor, video: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
        keys = torch.cat([F.normalize(video, dim=1), more.embedding])
        support = support_weights(F.normalize(text, dim=1) @ keys.T, own, "cross", 0.3, allowed)
        return mix(support, sequence * batch.mask[..., None], batch.mask, (more.sequence, more.mask))[0]

    assert torch.autograd.gradcheck(mixed, (text, video, sequence))
    # The same as one batch of five.
    found = mixed(text, video, sequence)
    together = torch.cat([F.pad(sequence * batch.mask[..., None], (0, 0, 0, 2)), more.sequence])
    mask = torch.cat([F.pad(batch.mask, (0, 2)), more.mask])
    keys = torch.cat([F.normalize(video, dim=1), more.embedding])
    support = support_weights(F.normalize(text, dim=1) @ keys.T, own, "cross", 0.3, allowed)
    torch.testing.assert_close(found, mix(support, together, mask)[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_clips_of_the_captions_source_do_not_support_it(variant: str) -> None:
    settings = small_config(support={"captioning": variant, "mask_sources": True})
    model = small_model(settings).eval()
    batch = small_batch(model, lengths=[5, 2, 3, 4], caption_clip=[0, 0, 1, 1, 2, 3])
    batch.sources = [7, 7, 8, 9]  # clips 0 and 1 were cut from one video
    plain = model(batch)
    bank = bank_for(model, 4)
    assert plain.codes is not None
    bank.add(["p", "q"], rows(plain.codes, [0, 1]), 0, [7, 4])
    usable = bank.entries(batch.clip_ids, 1, batch.sources).usable[:, :2]
    assert usable.tolist() == [[False, True], [False, True], [True, True], [True, True]]
    seen: list[torch.Tensor] = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(batch)
    # Clip 1 changes: captions of clip 0 must not notice, those of clips 2 and 3 must.
    batch.features[1] += 1.0 * batch.feature_mask[1][:, None]
    model(batch)
    noticed = [not torch.allclose(one, two) for one, two in zip(*seen, strict=True)]
    own = variant != "cross"
    assert noticed == [False, False, own, own, True, True]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_support_sets_of_a_size_are_drawn_anew_for_each_caption(variant: str, size: int) -> None:
    own = torch.tensor([0, 0, 3])[:, None] == torch.arange(7)
    allowed = torch.ones(3, 7, dtype=torch.bool)
    allowed[1, 4:] = False
    torch.manual_seed(0)
    counts = torch.zeros(3, 7)
    for _ in range(300):
        drawn = draw(allowed, own, size, variant)
        support = support_weights(torch.zeros(3, 7), own, variant, 0.1, drawn)
        most = (allowed & ~own if variant == "cross" else allowed | own).sum(1)
        assert torch.equal(support.members.sum(1), most.clamp(max=size))
        assert not (support.members & ~(allowed | own)).any()
        counts += support.members
    if variant == "cross":
        assert (counts[own] == 0).all()
    else:
        assert (counts[own] == 300).all()
    others = counts[0][1:] / 300
    share = min(1.0, (size - (variant != "cross")) / 6)
    assert torch.allclose(others, torch.full((6,), share), atol=0.1)


def test_a_state_comes_back_whole() -> None:
    bank = bank_of(5, max_age=3)
    bank.add(["a", "b", "c"], codes(3), 4, [1, 2, 2])
    other = bank_of(5, max_age=3)
    other.load_state_dict(bank.state_dict())
    for each in (bank, other):
        each.add(["d", "b", "e"], codes(3, seed=5), 6, [3, 2, 1])
    first, second = bank.state_dict(), other.state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
    assert len(other) == 5
    with pytest.raises(ValueError, match=r"the memory bank's embedding is \(5, 5\), not \(6, 5\)"):
        bank_of(6).load_state_dict(bank.state_dict())
    assert bank.bytes == 5 * 5 * 8 + 5 * 4 * 3 * 8 + 5 * 4


def test_half_precision_entries_are_mixed_in_the_precision_of_the_batch() -> None:
    bank = MemoryBank(3, dim=5, width=3, positions=4, dtype=torch.bfloat16)
    bank.add(["a"], codes(1, dtype=torch.float32), 0)
    assert (bank.embedding.dtype, bank.sequence.dtype) == (torch.float32, torch.bfloat16)
    batch = codes(2, seed=3, dtype=torch.float32)
    support = support_weights(torch.zeros(1, 5), torch.zeros(1, 5, dtype=torch.bool), "full", 0.1)
    mixture, _ = mix(support, batch.sequence, batch.mask, (bank.sequence, bank.mask))
    assert mixture.dtype == torch.float32


def test_training_with_a_bank_tells_its_size_and_ages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plant(tmp_path / "store").root
    setting = config(support={"bank": 64, "max_age": 5}, optim={"epochs": 2, "log_every": 1})
    train(setting, root, tmp_path / "run", device="cpu")
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if step["kind"] == "train"]
    assert steps[0]["bank_entries"] == 0
    assert steps[0]["bank_weight"] == 0
    assert all(0 < step["bank_entries"] <= 64 for step in steps[1:])
    assert all(1 <= step["bank_age_mean"] <= step["bank_age_max"] <= 5 for step in steps[1:])
    assert all(0 < step["bank_weight"] < 1 for step in steps[1:])
    said = capsys.readouterr().err
    values = 64 * (32 + 6 * 32) * 4 + 64 * 6
    assert f"memory bank: 64 clips, {values / 1e6:,.0f} MB on cpu and in checkpoints" in said


@pytest.mark.parametrize(
    ("support", "words"),
    [
        ({"bank": -1}, "support.bank = -1: a number of clips, 0 for none, or 'all'"),
        ({"bank": "some"}, "support.bank = 'some'"),
        ({"bank": 31}, "support.bank = 31 is smaller than a batch of 32; .* use support.size"),
        ({"bank": 64, "captioning": "identity"}, "support.bank = 64 changes nothing with .* 'identity'"),
        ({"size": 4, "captioning": "none"}, "support.size = 4 changes nothing"),
        ({"max_age": 4}, "set support.bank too"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_refused(support: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config(support=support)
