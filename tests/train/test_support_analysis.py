"""Attention of captions over other clips: against a loop, and that a trained model attends to shared concepts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption
from supportset.train.analysis.support_analysis import content_words, describe, support_report, support_stats
from supportset.train.loop.training import train
from tests.train.small_store import config, plant


def test_content_words_leave_out_what_says_nothing() -> None:
    assert content_words("A man is on the Red-brick roof, 2 dogs!") == {"man", "red", "brick", "roof", "dogs"}


def test_statistics_equal_a_loop_in_one_group() -> None:
    rng = np.random.default_rng(0)
    clips = ["a", "b", "c", "d"]
    sources = {"a": "s", "b": "s", "c": "t", "d": "u"}
    said = ["red ball", "a red box", "blue ball rolls", "the", "green star", "red star"]
    owner = ["a", "a", "b", "c", "d", "gone"]
    captions = [Caption(f"k{i}", clip, text) for i, (clip, text) in enumerate(zip(owner, said, strict=True))]
    text, video = rng.normal(size=(6, 5)), rng.normal(size=(4, 5))
    found = support_stats(text, video, captions, clips, sources, temperature=0.3, size=10)
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    words = {clip: set().union(*(content_words(c.text) for c in captions if c.clip_id == clip)) for clip in clips}
    rows: dict[str, list[float]] = {}
    for caption, vector in zip(captions[:5], text[:5], strict=True):
        powers = {clip: math.exp(float(unit(vector) @ unit(video[i])) / 0.3) for i, clip in enumerate(clips)}
        others = {clip: power for clip, power in powers.items() if clip != caption.clip_id}
        weights = {clip: power / sum(others.values()) for clip, power in others.items()}
        mine = content_words(caption.text)
        for name, value in (
            ("entropy", -sum(w * math.log(w) for w in weights.values())),
            ("highest_weight", max(weights.values())),
            ("own_weight", powers[caption.clip_id] / sum(powers.values())),
            ("same_source_weight", sum(w for clip, w in weights.items() if sources[clip] == sources[caption.clip_id])),
        ):
            rows.setdefault(name, []).append(value)
        if mine:
            share = {clip: len(mine & words[clip]) / len(mine) for clip in others}
            rows.setdefault("shared_words", []).append(sum(weights[clip] * share[clip] for clip in others))
            rows.setdefault("shared_words_of_uniform", []).append(sum(share.values()) / 3)
    for name, values in rows.items():
        assert found[name] == pytest.approx(np.mean(values)), name
    assert found["support_clips"] == 3
    assert found["entropy_of_uniform"] == pytest.approx(math.log(3))
    assert found["effective_clips"] == pytest.approx(math.exp(found["entropy"]))


def test_groups_are_of_the_size_of_a_batch() -> None:
    rng = np.random.default_rng(0)
    clips = [f"c{number}" for number in range(40)]
    captions = [Caption(clip, clip, "word") for clip in clips]
    found = support_stats(
        rng.normal(size=(40, 3)),
        np.ones((40, 3)),
        captions,
        clips,
        {clip: clip for clip in clips},
        temperature=1,
        size=8,
    )
    assert found["support_clips"] == 7
    assert found["entropy"] == pytest.approx(math.log(7))  # all clips are alike
    assert found["own_weight"] == pytest.approx(1 / 8)
    assert found["shared_words"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least two clips"):
        support_stats(np.ones((1, 3)), np.ones((1, 3)), captions[:1], clips[:1], {}, temperature=1, size=8)


def test_a_trained_model_attends_to_clips_of_which_the_same_is_said(tmp_path: Path) -> None:
    root = plant(tmp_path / "store", missing=("clip05-2",)).root
    train(config(optim={"epochs": 3}), root, tmp_path / "run", device="cpu")
    result = support_report(tmp_path / "run", root, device="cpu", examples=4)
    found = result["attention"]
    assert found["shared_words"] > found["shared_words_of_uniform"] + 0.15
    assert 0 < found["entropy"] < found["entropy_of_uniform"]
    assert json.loads((tmp_path / "run" / "eval" / "attention-test.json").read_text()) == result
    assert len(result["examples"]) == 4
    for example in result["examples"]:
        assert example["clip_id"] not in {each["clip_id"] for each in example["attended"]}
        weights = [each["weight"] for each in example["attended"]]
        assert weights == sorted(weights, reverse=True)
    told = describe(result)
    assert "attention of planted, split test, over" in told
    assert result["examples"][0]["caption"] in told
    held = support_report(tmp_path / "run", root, split="holdout", temperatures=(0.01, 0.1, 10.0), device="cpu")
    sharp, same, blunt = held["at"]
    assert sharp["effective_clips"] < same["effective_clips"] < blunt["effective_clips"] <= 11
    assert same == {"temperature": 0.1} | held["attention"], "the run's own"
    assert "at T = 0.01" in describe(held)
    small = support_report(tmp_path / "run", root, split="holdout", size=4, device="cpu")
    assert small["attention"]["support_clips"] == 3
    with pytest.raises(UsageError, match="size 1: give at least 2 clips"):
        support_report(tmp_path / "run", root, size=1, device="cpu")
    with pytest.raises(UsageError, match="temperature 0: give a positive number"):
        support_report(tmp_path / "run", root, temperatures=(0.1, 0.0), device="cpu")
    assert held["attention"]["support_clips"] == 11
    with pytest.raises(UsageError, match="no split 'x'"):
        support_report(tmp_path / "run", root, split="x", device="cpu")
