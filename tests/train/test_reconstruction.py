"""What captions are written from: against a loop, and that a caption passing through its own weights is seen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from supportset.store.format.dataset import Caption, open_dataset
from supportset.train.analysis.reconstruction import (
    _of_others,
    _siblings,
    describe_reconstruction,
    reconstruction_stats,
)
from supportset.train.analysis.support_analysis import describe, support_report
from supportset.train.analysis.words import content_words
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.data.feature_sets import open_recorded_features
from supportset.train.encode import encode_tokens, read_text
from supportset.train.loop.training import train
from supportset.train.model.model import SupportSetModel
from supportset.train.run_folder import RunFolder
from tests.train.small_store import config, plant

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder and its store."""
    folder = tmp_path_factory.mktemp("reconstruction")
    root = plant(folder / "store").root
    train(config(support={"captioning": "cross"}, optim={"epochs": 2}), root, folder / "run")
    return folder / "run", root


def loaded(run: tuple[Path, Path], count: int) -> tuple[SupportSetModel, ClipFeatures, list[Caption]]:
    """The model, the first clips that train, and their captions."""
    folder = RunFolder(run[0])
    features = open_recorded_features(folder.data_record(), run[1], "small")
    tables = open_dataset(run[1], "small")
    model = SupportSetModel.from_pretrained(folder.model_folder())
    protocol = folder.load_config().data.protocol
    ids = tables.split_clips(protocol, "train")[:count]
    captions = [each for each in tables.split_captions(protocol, "train") if each.clip_id in ids]
    return model, ClipFeatures(features, ids, 32), captions


def embedded(model: SupportSetModel, captions: list[Caption]) -> np.ndarray:
    return encode_tokens(model, read_text(model, captions, model.config.data.max_tokens))


def test_losses_equal_a_loop_over_captions_and_tokens(run: tuple[Path, Path]) -> None:
    model, clips, captions = loaded(run, 5)
    captions[0] = Caption(captions[0].caption_id, captions[0].clip_id, f"{captions[0].text} on the zeppelin")
    text = embedded(model, captions)
    found = reconstruction_stats(model, text, clips, captions, size=5)
    assert found["temperature"] == model.config.support.temperature
    assert found["captions"] == len(captions)
    values, mask = clips.gather(np.arange(5))
    sums = {(kind, way): [] for kind in ("said", "unsaid") for way in ("own", "uniform")}
    with torch.no_grad():
        codes = model.encode_video(values.float(), mask)
        for caption, vector in zip(captions, torch.as_tensor(text), strict=True):
            others = [j for j, clip_id in enumerate(clips.clip_ids) if clip_id != caption.clip_id]
            cosines = torch.stack([codes.embedding[j] @ vector / vector.norm() for j in others])
            labels = model.tokenize_labels([caption.text], 32)
            (places,) = model.label_places([caption.text], 32)
            elsewhere = set().union(*(content_words(c.text) for c in captions if c.clip_id != caption.clip_id))
            for way, weights in (
                ("own", (cosines / found["temperature"]).softmax(0)),
                ("uniform", torch.full((len(others),), 1 / len(others))),
            ):
                mixture = torch.zeros_like(codes.sequence[:1])
                there = codes.mask[others]
                for m in range(mixture.shape[1]):
                    share = weights * there[:, m]
                    if share.sum() > 0:
                        mixture[0, m] = (share[:, None] * codes.sequence[others, m]).sum(0) / share.sum()
                losses = model.decoder.token_losses(mixture, there.any(0)[None], torch.tensor(labels))[0]
                for match in re.finditer(r"[a-z]+", caption.text.lower()):
                    if match.group() not in content_words(caption.text):
                        continue
                    kind = "said" if match.group() in elsewhere else "unsaid"
                    for loss, (first, last) in zip(losses, places, strict=True):
                        if first < match.end() and last > match.start():
                            sums[kind, way].append(float(loss))
    assert sums["unsaid", "own"]  # the zeppelin
    for (kind, way), losses in sums.items():
        assert found[kind]["tokens"] == len(losses)
        assert found[kind][way] == pytest.approx(np.mean(losses), rel=1e-4), (kind, way)


def test_a_sibling_is_of_the_same_clip_and_another_is_not() -> None:
    rng = np.random.default_rng(0)
    owner = np.asarray([3, 1, 3, 0, 1, 3, 2])
    siblings = _siblings(owner)
    assert siblings.tolist() == [2, 4, 5, -1, 1, 0, -1]
    others = _of_others(owner, rng)
    assert sorted(others) == list(range(7))
    assert (owner[others] != owner).all()


def test_the_weights_of_siblings_and_others_are_theirs(run: tuple[Path, Path]) -> None:
    model, clips, captions = loaded(run, 2)
    first = [caption for caption in captions if caption.clip_id == clips.clip_ids[0]][:1]
    second = [caption for caption in captions if caption.clip_id == clips.clip_ids[1]][:1]
    alone = reconstruction_stats(model, embedded(model, first + second), clips, first + second, size=2)
    for kind in ("said", "unsaid"):
        assert alone[kind]["sibling"] is None  # each clip has one caption
        if alone[kind]["tokens"]:  # one other clip has all the weight, whoever's it is
            assert alone[kind]["own"] == pytest.approx(alone[kind]["uniform"], rel=1e-5)
            assert alone[kind]["own"] == pytest.approx(alone[kind]["other"], rel=1e-5)
    assert " / - / " in "\n".join(describe_reconstruction(alone))
    twice = [*first, Caption("twin", first[0].clip_id, first[0].text), *second]
    doubled = reconstruction_stats(model, embedded(model, twice), clips, twice, size=2)
    assert any(doubled[kind]["sibling"] is not None for kind in ("said", "unsaid"))


def test_a_decoder_that_reads_the_caption_off_its_weights_is_seen(tmp_path: Path) -> None:
    # Captioning outweighs the rest by far, so that what a caption says, too, is learnt through its weights.
    root = plant(tmp_path / "store").root
    optim = {"epochs": 25, "select_by": "last"}
    train(config(support={"captioning": "cross"}, loss={"caption_weight": 10.0}, optim=optim), root, tmp_path / "run")
    found = support_report(tmp_path / "run", root, split="train", device="cpu")
    said = found["reconstruction"]["said"]
    assert said["own"] < said["sibling"] < said["other"]
    assert said["own"] < said["uniform"]
    assert "decoder's loss" in describe(found)


def test_a_run_without_decoder_tells_nothing_of_it(tmp_path: Path) -> None:
    root = plant(tmp_path / "store").root
    train(config(support={"captioning": "none"}, optim={"epochs": 1}), root, tmp_path / "run")
    found = support_report(tmp_path / "run", root, split="test", device="cpu")
    assert found["reconstruction"] is None
    assert "decoder's loss" not in describe(found)


def test_whole_groups_are_taken_until_there_are_enough(run: tuple[Path, Path]) -> None:
    model, clips, captions = loaded(run, 12)
    text = embedded(model, captions)
    assert reconstruction_stats(model, text, clips, captions, size=4)["captions"] == len(captions)
    some = reconstruction_stats(model, text, clips, captions, size=4, most=1)["captions"]
    assert 4 <= some < len(captions)


def test_two_clips_and_a_decoder_are_needed(run: tuple[Path, Path]) -> None:
    model, clips, captions = loaded(run, 1)
    with pytest.raises(ValueError, match="at least two clips"):
        reconstruction_stats(model, embedded(model, captions), clips, captions, size=5)
    model.decoder = None
    with pytest.raises(ValueError, match="no decoder"):
        reconstruction_stats(model, embedded(model, captions), clips, captions, size=5)
