"""What a split shares with the training clips: found exactly, told in counts, lists and rules."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from supportset.commands.main import cli
from supportset.evaluate.leakage_report import find_leakage, near_captions, near_features
from supportset.evaluate.splits import leakage, read_captions
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption, Dataset, write_dataset
from supportset.store.read.feature_set import FeatureSet
from tests.train.small_store import plant

SENTENCES = st.lists(st.sampled_from("abcdef"), max_size=7).map(" ".join)


def captions(texts: list[str], prefix: str) -> list[Caption]:
    return [Caption(f"{prefix}{number}", f"clip-{prefix}{number}", text) for number, text in enumerate(texts)]


@given(st.lists(SENTENCES, max_size=12), st.lists(SENTENCES, max_size=6), st.sampled_from([0.3, 0.5, 0.75, 0.8, 1.0]))
def test_near_captions_are_those_of_all_pairs(train: list[str], queries: list[str], threshold: float) -> None:
    found = near_captions(captions(train, "t"), captions(queries, "q"), threshold)
    best = {}
    for number, query in enumerate(queries):
        words = set(query.split())
        sets = [set(text.split()) for text in train]
        indexes = [Fraction(len(words & other), len(words | other)) if words | other else Fraction(0) for other in sets]
        if indexes and max(indexes) >= Fraction(str(threshold)):
            best[f"q{number}"] = round(float(max(indexes)), 4)
    assert {row["caption_id"]: row["similarity"] for row in found} == best
    for row in found:
        words, other = set(row["text"].split()), set(row["train_text"].split())
        assert round(len(words & other) / len(words | other), 4) == row["similarity"]
        assert train[int(row["train_caption_id"][1:])] == row["train_text"]


def test_case_punctuation_width_and_order_do_not_tell_captions_apart() -> None:
    trained = [Caption("t", "clip-t", "A dog, that runs!")]
    for text in ("that dog runs: a DOG", "\uff41 dog that runs"):  # a fullwidth letter
        assert near_captions(trained, [Caption("q", "clip-q", text)], 1.0)[0]["similarity"] == 1.0


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    clips = [
        {"clip_id": "t1", "source": "film1"}, {"clip_id": "t2", "source": None}, {"clip_id": "t3", "source": "film1"},
        {"clip_id": "q1", "source": "film1"}, {"clip_id": "q2", "source": "t2"}, {"clip_id": "q3", "source": None},
    ]  # fmt: skip
    said = {"t1": "a cat sleeps on a warm stone", "t2": "=1+1", "t3": "a cat sleeps on a warm stone", "q1": "=1+1",
            "q2": "on a stone a warm cat sleeps", "q3": "rain"}  # fmt: skip
    return write_dataset(
        tmp_path / "features", "pets", clips=clips,
        captions=[{"caption_id": f"c{clip}", "clip_id": clip, "text": text} for clip, text in said.items()],
        splits=[{"protocol": "p", "split": "train" if clip[0] == "t" else "test", "clip_id": clip} for clip in said],
        protocols={"p": {"train": None, "test": None}}, sources=[],
    )  # fmt: skip


def test_lists_and_counts_by_hand(dataset: Dataset, tmp_path: Path) -> None:
    found = find_leakage(dataset, "p")
    assert [(row["clip_id"], row["train_clip_ids"]) for row in found.shared_sources] == [("q1", "t1 t3"), ("q2", "t2")]
    assert [(row["caption_id"], row["train_clip_id"]) for row in found.verbatim_captions] == [("cq1", "t2")]
    assert [(row["caption_id"], row["similarity"]) for row in found.near_captions] == [("cq2", 1.0)]
    assert found.near_features is None
    paths = [Path(path) for path in found.write(tmp_path / "out")]
    rows = {path.name: list(csv.reader(path.open(encoding="utf-8"))) for path in paths if path.suffix == ".csv"}
    assert {name: len(each) - 1 for name, each in rows.items()} == {
        "shared-sources.csv": 2, "verbatim-captions.csv": 1, "near-captions.csv": 1,
    }  # fmt: skip
    counts = json.loads(next(path for path in paths if path.suffix == ".json").read_text())
    assert (counts["near_captions"]["count"], counts["queries"], counts["train_captions"]) == (1, 3, 3)


def test_counts_are_those_that_a_run_records(dataset: Dataset) -> None:
    sources = {row["clip_id"]: row["source"] or row["clip_id"] for row in dataset.clips.to_pylist()}
    counted = leakage(read_captions(dataset, "p", "train"), read_captions(dataset, "p", "test"), sources)
    found = find_leakage(dataset, "p")
    assert counted["verbatim_queries"] == len(found.verbatim_captions)
    assert counted["shared_source_clips"] == len(found.shared_sources)


def test_near_features_are_those_of_all_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supportset.evaluate.leakage_report._BLOCK", 7)
    store = plant(tmp_path / "features", noise=0.2, missing=("clip05-2", "clip07-0"))
    features = FeatureSet.open(next((store.root / "small" / "features").iterdir()))
    train, test = (store.dataset.split_clips("planted", split) for split in ("train", "test"))

    def mean(clip: str) -> np.ndarray:
        vector = features.read([clip])[0].astype(np.float64).mean(0)
        return vector / np.linalg.norm(vector)

    expected = {}
    for clip in set(test) - {"clip05-2"}:
        cosines = {other: float(mean(clip) @ mean(other)) for other in train if other != "clip07-0"}
        nearest = max(cosines, key=cosines.__getitem__)
        if cosines[nearest] >= 0.995:
            expected[clip] = (nearest, pytest.approx(cosines[nearest], abs=1e-4))
    found = near_features(features, train, test, 0.995)
    assert 0 < len(expected) < len(test)
    assert {row["clip_id"]: (row["train_clip_id"], row["cosine"]) for row in found} == expected


@pytest.mark.parametrize("wrong", [{"similarity": 0.0}, {"similarity": 1.1}, {"cosine": 2.0}, {"split": "none"}])
def test_wrong_values_are_named(dataset: Dataset, wrong: dict[str, float | str]) -> None:
    (value,) = wrong.values()
    with pytest.raises(UsageError, match=value if isinstance(value, str) else f"{value:g}: give a number"):
        find_leakage(dataset, "p", **wrong)  # type: ignore[arg-type]


def test_command(dataset: Dataset, tmp_path: Path) -> None:
    words = ["datasets", "leakage", "pets", "--store", str(tmp_path / "features")]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0
    assert "2 of 3  clips share their source video" in shown.output
    assert json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)[0]["verbatim_captions"]["count"] == 1
    refused = CliRunner().invoke(cli, [*words, "--split", "dev"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "msrvtt" in CliRunner().invoke(cli, ["datasets"]).output


def test_msrvtt(shared_data: Path) -> None:
    words = ["datasets", "leakage", "msrvtt", "--data", str(shared_data / "msrvtt"), "--json"]
    told = {
        each["protocol"]: each
        for each in json.loads(CliRunner().invoke(cli, [*words, "--protocol", "msrvtt-1ka-9k"]).stdout)
    }
    official = told["msrvtt-1ka-9k"]
    assert official["shared_sources"]["count"] == 372
    assert official["verbatim_captions"]["count"] == 107
    told = json.loads(CliRunner().invoke(cli, [*words, "--protocol", "msrvtt-1ka-9k-clean"]).stdout)
    assert (told[0]["shared_sources"]["count"], told[0]["verbatim_captions"]["count"]) == (0, 0)
    assert (told[0]["train_clips"], told[0]["clips"]) == (8585, 1000)
