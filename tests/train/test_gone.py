"""Clips whose videos are gone: not found, a miss in their split, not trained on. Without a mark all is as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.evaluate.evaluation import describe
from supportset.search.run import open_run
from supportset.store.errors import UsageError
from supportset.store.format.dataset import open_dataset, write_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import find_feature_set
from supportset.train.data.source import open_run_data
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from tests.train.small_store import SmallStore, config, plant

GONE = ["clip00-0", "clip03-2", "clip05-2"]  # one of the training split, two of the test split


def mark(root: Path, gone: Iterable[str]) -> None:
    """Record clips as gone, as a run of ``extract`` does."""
    old = open_dataset(root, "small")
    tables: dict[str, Any] = {"clips": old.clips, "captions": old.captions, "splits": old.splits}
    write_dataset(root, "small", **tables, protocols=old.info["protocols"], sources=[], gone=gone)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return plant(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def run(planted: SmallStore) -> Path:
    path = planted.root.parent / f"{planted.root.name}-run"
    train(config(support={"captioning": "none"}, optim={"epochs": 3}), planted.root, path, device="cpu")
    return path


@pytest.fixture
def store(planted: SmallStore, tmp_path: Path) -> Path:
    """A copy of the store in which three videos are gone."""
    root = tmp_path / "features"
    shutil.copytree(planted.root, root)
    mark(root, GONE)
    return root


def told(*words: object) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in words else {}, result.stderr


@pytest.mark.slow
def test_search_never_returns_them_and_says_how_many(run: Path, store: Path, planted: SmallStore) -> None:
    gallery = open_run(run, "cpu").open_gallery(planted.root)  # fills the cache, with all clips
    assert (gallery.left_out, set(GONE) <= set(gallery.clip_ids)) == (0, True)
    answer, _ = told("search", run, "a red ball", "-k", 1000, "--store", store, "--device", "cpu", "--json")
    found = [hit["clip_id"] for hit in answer["hits"]]
    assert answer["left_out"] == 3
    assert sorted(found) == sorted(set(gallery.clip_ids) - set(GONE))
    before = {hit.clip_id: hit.score for hit in gallery.search(["a red ball"], 1000)[0]}
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([before[each] for each in found], abs=1e-6)
    words = ("search", run, "a red ball", "--split", "test", "--store", store, "--device", "cpu")
    answer, _ = told(*words, "--json")
    assert answer["left_out"] == 2
    assert "2 clips are left out, as their videos are gone" in told(*words)[1]


@pytest.mark.slow
def test_hits_name_the_file_that_the_last_run_found(run: Path, store: Path) -> None:
    old = open_dataset(store, "small")
    clips = old.clips.to_pylist()
    clips[1]["path"], clips[2]["path"] = "moved/here.mp4", None
    tables: dict[str, Any] = {"clips": clips, "captions": old.captions, "splits": old.splits}
    write_dataset(store, "small", **tables, protocols=old.info["protocols"], sources=[])
    paths = {hit.clip_id: hit.path for hit in open_run(run, "cpu").open_gallery(store).search(["a ball"], 1000)[0]}
    first, second, third = (clip["clip_id"] for clip in clips[1:4])
    assert paths[first] == "moved/here.mp4"
    assert paths[second] == f"films/{second}.mp4", "where no run found it: as it was extracted"
    assert paths[third] == f"{third}.mp4"


@pytest.mark.slow
def test_a_store_without_marks_is_searched_and_scored_as_before(run: Path, store: Path, planted: SmallStore) -> None:
    before = evaluate(run, store=planted.root, device="cpu")
    assert (before["left_out"], before["missing"]) == (0, 0)
    mark(store, [])
    after = evaluate(run, store=store, device="cpu")
    assert after["t2v"] == before["t2v"]
    assert after["v2t"] == before["v2t"]


@pytest.mark.slow
def test_in_a_split_they_are_misses(run: Path, store: Path) -> None:
    result = evaluate(run, store=store, device="cpu")
    assert (result["gallery"], result["missing"], result["left_out"], result["queries"]) == (64, 2, 2, 128)
    assert not result["gallery_complete"]
    assert "the videos of 2 are gone" in describe(result)
    ranks = Path(result["files"]["scores"]).read_text()
    assert set(json.loads(ranks)["clips_without_features"]) == {"clip03-2", "clip05-2"}
    answer, _ = told("eval", run, "--store", store, "--device", "cpu", "--json")
    assert answer["left_out"] == 2


def test_they_are_not_trained_on(store: Path) -> None:
    data = open_run_data(config(), store)
    assert "clip00-0" not in data.train.clip_ids
    assert not data.validation or "clip00-0" not in data.validation.clip_ids
    assert data.record["train"]["clips_gone"] == data.record["train"]["clips_without_features"] == ["clip00-0"]
    assert any("1 of these had features, but their videos are gone" in note for note in data.notes)


@pytest.mark.slow
def test_a_dataset_that_is_gone_as_a_whole(run: Path, store: Path, planted: SmallStore) -> None:
    mark(store, planted.concepts)
    with pytest.raises(UsageError, match=r"no clip with features .*; the videos of 192 clips are gone"):
        open_run(run, "cpu").open_gallery(store)


@pytest.mark.parametrize("sets", [1, 2])
def test_aligned_features_leave_clips_out(planted: SmallStore, sets: int) -> None:
    feature_set = find_feature_set(planted.root, "small/planted")
    features = AlignedFeatures([feature_set] * sets, {*GONE, "never"})
    assert features.left_out == sorted(GONE)
    assert features.clip_ids == [each for each in feature_set.clip_ids if each not in GONE]
    assert len(features) == len(feature_set) - 3
    assert ("clip00-0" in features, "clip00-1" in features) == (False, True)
    values, _ = features.read(["clip00-1"])
    assert values[:, : feature_set.dim].tobytes() == feature_set.read(["clip00-1"])[0].tobytes()
