"""The benchmark of training runs from end to end on tiny sizes; how fast anything is, is not looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.train import step_time
from benchmarks.train.__main__ import main
from benchmarks.train.configurations import paper
from benchmarks.train.data import Prepared
from benchmarks.train.loader_wait import sum_up
from benchmarks.train.made_up import captions_of
from benchmarks.train.plan import QUICK, Plan
from benchmarks.train.ways import Bench, Way
from supportset.train.model.decoder import IGNORED

pytestmark = pytest.mark.slow

WAITS = {f"loader.{size}.{place}" for size in ("paper", "study") for place in ("ram", "disk")}
STEPS = {
    "ours/plain",
    "shipped/plain",
    "bucketing",
    "clip_padding",
    "caption_padding",
    "decoder",
    "packing",
    "cheap",
    "memory",
}
FULL = {"rate", "rate_bucketed", "time", "memory", "wait", "forward", "backward", "optimiser"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The quick run's files, captions made up."""
    folder = tmp_path_factory.mktemp("bench")
    return Prepared(Plan(folder, folder / "nothing", QUICK, 1, "cpu", True, lambda told: None))


@pytest.mark.parametrize(
    ("letter", "expected"),
    [("a", WAITS), ("b", {f"step.{name}" for name in STEPS}), ("c", {f"full.{name}" for name in FULL})],
)
def test_figure(letter: str, expected: set[str], tmp_path: Path) -> None:
    out, work = tmp_path / "out.json", tmp_path / "work"
    options = ["--quick", "--only", letter, "--device", "cpu", "--folder", str(work), "--out", str(out)]
    result = CliRunner().invoke(main, [*options, "--real", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (figure,) = json.loads(out.read_text(encoding="utf-8"))["figures"]
    assert {row["name"] for row in figure["rows"]} == expected
    assert figure["notes"]
    assert not list(work.iterdir()), "nothing is left behind"


def test_without_a_gpu_the_full_size_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--only", "c", "--device", "cpu", "--folder", str(tmp_path / "work"), "--out", str(out)]
    assert CliRunner().invoke(main, options, catch_exceptions=False).exit_code == 0
    (figure,) = json.loads(out.read_text(encoding="utf-8"))["figures"]
    assert not figure["rows"]
    assert "left out" in figure["notes"][0]


def test_ways_differ_in_what_they_say_and_batches_hold_the_same(prepared: Prepared) -> None:
    bench = Bench(paper(prepared.small_t5, QUICK), prepared.videos, prepared.npy, 2, torch.device("cpu"))
    rows = bench.planned(0, bucketed=False)[0]
    ours = next(bench.batches(Way(), [rows]))
    assert ours.labels is not None
    plain = Way(short_captions=False, short_clips=False, in_memory=False)
    for way in (plain, replace(plain, in_memory=True)):
        theirs = next(bench.batches(way, [rows]))
        assert theirs.features.shape[1] == bench.longest_clip
        assert theirs.text_ids.shape[1] == bench.config.data.max_tokens
        assert theirs.labels is not None
        assert theirs.labels.shape[1] == bench.config.data.max_tokens
        assert theirs.clip_ids == ours.clip_ids
        assert theirs.caption_ids == ours.caption_ids
        assert torch.equal(theirs.features[theirs.feature_mask], ours.features[ours.feature_mask])
        assert torch.equal(theirs.text_ids[theirs.text_mask], ours.text_ids[ours.text_mask])
        assert torch.equal(theirs.labels[theirs.labels != IGNORED], ours.labels[ours.labels != IGNORED])
    for number in (0, 1):
        cut = [np.concatenate(bench.planned(number, bucketed)) for bucketed in (True, False)]
        assert sorted(cut[0]) == sorted(cut[1]), "the same captions either way"


def test_a_way_with_another_loss_is_found(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(
        paper(prepared.small_t5, QUICK, **step_time.STILL), prepared.videos, prepared.npy, 2, torch.device("cpu")
    )
    plain = Way(own_decoder=False, short_captions=False)
    ways = {"ours": Way(), step_time.PLAIN: plain}
    step_time.check(bench, ways)
    judge = bench.judge
    monkeypatch.setattr(bench, "judge", lambda way, rows: (judge(way, rows)[0] * (1 + 1e-3 * way.own_decoder), 1.0))
    with pytest.raises(RuntimeError, match="ours: loss and gradient"):
        step_time.check(bench, ways)


def test_the_loops_records_are_weighted_by_time() -> None:
    records = [
        {"kind": "train", "step": 2, "captions_per_s": 1.0, "data_wait": 0.9},
        {"kind": "epoch", "step": 2},
        {"kind": "train", "step": 4, "captions_per_s": 16.0, "data_wait": 0.1},  # two steps of a second
        {"kind": "train", "step": 5, "captions_per_s": 8.0, "data_wait": 0.4},  # one of two
    ]
    found = sum_up(records, batch=16)
    assert (found.steps, found.step_s) == (3, 1.5)
    assert found.share == pytest.approx((2 * 0.1 + 2 * 0.4) / 4)


def test_made_up_captions_are_of_realistic_length(tmp_path: Path) -> None:
    captions, source = captions_of(200, 3, tmp_path)
    lengths = [len(text.split()) for each in captions for text in each]
    assert [len(each) for each in captions] == [3] * 200
    assert np.mean(lengths) == pytest.approx(10, abs=1)
    assert "made-up" in source


def test_real_captions_are_taken_where_they_are(shared_data: Path) -> None:
    captions, source = captions_of(3, 25, shared_data)
    assert source == "MSR-VTT's captions"
    assert [len(each) for each in captions] == [25] * 3
    assert captions[0][20:] == captions[0][:5], "again and again where they are few"
