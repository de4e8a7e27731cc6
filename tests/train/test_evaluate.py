"""Evaluation of a run: the scores a naive loop gives, misses, galleries, files, and every wrong name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from supportset.evaluate.evaluation import describe
from supportset.evaluate.ranks import MISS
from supportset.evaluate.scores import score_embeddings
from supportset.evaluate.scoring import Scoring
from supportset.evaluate.splits import Split, source_videos
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.dataset import Caption, open_dataset, write_dataset
from supportset.store.read.catalog import find_feature_set
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from supportset.train.model.model import SupportSetModel
from tests.train.small_store import SmallStore, config, plant, recipe

MISSING = ("clip03-2", "clip40-2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("store"), missing=MISSING).root


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    path = root.parent / f"{root.name}-run"
    train(config(support={"captioning": "none"}, optim={"epochs": 1}), root, path, device="cpu")
    return path


def naive_scores(root: Path, run: Path, direction: str) -> list[int | None]:
    """Ranks in the table's order: one clip or caption encoded at a time, one comparison at a time."""
    model = SupportSetModel.from_pretrained(run)
    dataset = open_dataset(root, "small")
    clips, captions = dataset.split_clips("planted", "test"), dataset.split_captions("planted", "test")
    features = find_feature_set(root, "small/planted")
    video: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for clip in clips:
            if clip in features:
                values = torch.from_numpy(features.read([clip])[0]).float()
                if len(values) > 5:  # the configuration's max_steps
                    values = values[[int((i + 0.5) * len(values) / 5) for i in range(5)]]
                embedding = model.encode_video(values[None], torch.ones(1, len(values), dtype=torch.bool)).embedding
                video[clip] = embedding[0].double().numpy()
        text = []
        for caption in captions:
            ids = torch.tensor(model.tokenize_text([caption.text], 32))
            text.append(model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))[0].double().numpy())
    ranks: list[int | None] = []
    if direction == "t2v":
        for caption, query in zip(captions, text, strict=True):
            if caption.clip_id not in video:
                ranks.append(None)
                continue
            own = query @ video[caption.clip_id]
            ranks.append(
                1 + sum(query @ other >= own - 1e-6 for clip, other in video.items() if clip != caption.clip_id)
            )
        return ranks
    for clip in clips:
        if clip not in video:
            ranks.append(None)
            continue
        best = max(
            video[clip] @ query for caption, query in zip(captions, text, strict=True) if caption.clip_id == clip
        )
        wrong = [query for caption, query in zip(captions, text, strict=True) if caption.clip_id != clip]
        ranks.append(1 + sum(video[clip] @ query >= best - 1e-6 for query in wrong))
    return ranks


def test_scores_are_those_of_a_naive_loop_and_a_missing_clip_is_a_miss(root: Path, run: Path) -> None:
    result = evaluate(run, store=root, device="cpu")
    assert (result["protocol"], result["split"], result["dataset"]) == ("planted", "test", "small")
    assert (result["gallery"], result["queries"], result["missing"]) == (64, 128, 2)
    assert (result["expected_gallery"], result["gallery_complete"]) == (64, False)
    table = pq.read_table(run / "eval" / "planted-test-ranks.parquet").to_pylist()
    for direction, count, candidates in (("t2v", 128, 64), ("v2t", 64, 128)):
        expected = naive_scores(root, run, direction)
        rows = [row for row in table if row["direction"] == direction]
        assert [row["rank"] for row in rows] == expected
        assert len(expected) == count
        missed = [row for row in rows if row["rank"] is None]
        assert {row["clip_id"] for row in missed} == set(MISSING)
        for cut in (1, 5, 10, 50):
            hits = sum(rank is not None and rank <= cut for rank in expected)
            assert result[direction][f"R@{cut}"] == pytest.approx(100 * hits / count)
        placed = [candidates + 1 if rank is None else rank for rank in expected]
        assert result[direction]["MdR"] == np.median(placed)
        assert result[direction]["MnR"] == pytest.approx(np.mean(placed))
        for cut in (1, 5):
            low, high = result["intervals"][direction][f"R@{cut}"]
            assert low <= result[direction][f"R@{cut}"] <= high
            assert low < high
    assert result["t2v"]["R@1"] > 20.0  # chance is 1.6


def test_what_is_returned_is_what_is_written_and_is_json(root: Path, run: Path) -> None:
    result = evaluate(run, store=root, device="cpu")
    written = json.loads((run / "eval" / "planted-test.json").read_text())
    assert written.pop("clips_without_features") == list(MISSING)
    assert written == result
    assert result["name"] == "planted [62/64 clips, 2 missing counted as misses]"
    assert result["selected_by"].startswith("best epoch (1) by rsum on holdout: 12 clips")
    assert result["tie_rule"].startswith("pessimistic")
    assert set(result["t2v"]) == set(result["v2t"]) == {"R@1", "R@5", "R@10", "R@50", "MdR", "MnR"}


def test_the_table_for_people_tells_protocol_gallery_queries_and_missing(root: Path, run: Path) -> None:
    result = evaluate(run, "planted", "test", root, device="cpu")
    text = describe(result)
    assert "planted, split test of small" in text
    assert "64 clips" in text
    assert "128 captions" in text
    assert "2 clips without features: counted as misses" in text
    assert f"{result['t2v']['R@1']:.1f}" in text
    assert "128 of 128 queries are word for word training captions" in text
    assert "not comparable" not in text
    assert "(the protocol asks for 1,000: not comparable)" in describe(result | {"expected_gallery": 1000})


def test_the_held_out_part_scores_as_it_did_while_training(root: Path, run: Path) -> None:
    result = evaluate(run, split="holdout", store=root, device="cpu")
    best = json.loads((run / "best.json").read_text())["validation"]
    assert result["gallery"] == 12
    for way in ("t2v", "v2t"):
        for name, value in result[way].items():
            assert value == pytest.approx(best[f"{way}/{name}"]), (way, name)
    assert result["rsum"] == pytest.approx(best["rsum"])


def test_a_gallery_of_another_size_than_the_protocols_is_told(tmp_path: Path, run: Path) -> None:
    root = plant(tmp_path, expected_test=100).root
    result = evaluate(run, store=root, device="cpu")
    assert (result["gallery"], result["expected_gallery"], result["gallery_complete"]) == (64, 100, False)
    assert result["missing"] == 0


def test_another_dataset_of_the_same_recipe_is_scored_under_its_own_name(root: Path, run: Path) -> None:
    plant(root, "twin")
    result = evaluate(run, store=root, dataset="twin", device="cpu")
    assert result["dataset"] == "twin"
    assert result["missing"] == 0
    assert result["leakage"] is None
    assert (run / "eval" / "twin-planted-test.json").exists()
    shutil.rmtree(root / "twin")


def test_held_out_clips_that_a_store_has_not_are_told(run: Path, tmp_path: Path) -> None:
    held = json.loads((run / "data.json").read_text())["holdout"]
    store = plant(tmp_path, missing=tuple(held))
    with pytest.raises(UsageError, match="none of the 12 clips that the run held out has features"):
        evaluate(run, split="holdout", store=tmp_path, device="cpu")
    rewrite(store, [row for row in store.dataset.splits.to_pylist() if row["clip_id"] != held[0]])
    with pytest.raises(UsageError, match=f"1 of the 12 clips .* are no longer in split 'train' .*{held[0]}"):
        evaluate(run, split="holdout", store=tmp_path, device="cpu")


def test_another_protocols_gallery_of_training_clips_is_told(run: Path, tmp_path: Path) -> None:
    store = plant(tmp_path)
    record = json.loads((run / "data.json").read_text())
    out = {*record["holdout"], *record["train"]["clips_without_features"]}
    rows = store.dataset.splits.to_pylist()
    seen = [row["clip_id"] for row in rows if row["split"] == "train" and row["clip_id"] not in out][:5]
    unseen = [row["clip_id"] for row in rows if row["split"] == "test"][:4] + record["holdout"][:3]
    other = [{"protocol": "other", "split": "test", "clip_id": clip, "caption_id": None} for clip in seen + unseen]
    rewrite(store, rows + other)
    result = evaluate(run, "other", store=tmp_path, device="cpu")
    held_films = {source_videos(store.dataset)[clip] for clip in record["holdout"]}
    trained_films = {source_videos(store.dataset)[clip] for clip in seen}
    assert not held_films & trained_films  # the hold-out goes by source, so its clips share none
    assert (result["leakage"]["clips"], result["leakage"]["shared_source_clips"]) == (12, 5)
    assert "leakage: 5 of 12 clips share their source video with a training clip" in describe(result)


def rewrite(store: SmallStore, splits: list[dict[str, Any]]) -> None:
    """The same dataset with other splits."""
    tables = store.dataset
    protocols = {row["protocol"]: {"train": None, "test": None} for row in splits}
    write_dataset(
        store.root,
        "small",
        clips=tables.clips,
        captions=tables.captions,
        splits=splits,
        protocols=protocols,
        sources=[],
    )


def test_gallery_lists_conventions_labels_and_scores_beside_of_a_run(root: Path, run: Path, tmp_path: Path) -> None:
    whole = evaluate(run, store=root, device="cpu")
    tables = open_dataset(root, "small")
    listed = tables.split_clips("planted", "test")[:20]
    (tmp_path / "twenty.txt").write_text("".join(f"{clip}\n" for clip in listed))
    labels = "".join(f"{caption.caption_id} 0 {listed[0]} 1\n" for caption in tables.split_captions("planted", "test"))
    (tmp_path / "labels.txt").write_text(labels)
    scoring = Scoring.read(gallery=tmp_path / "twenty.txt", labels=tmp_path / "labels.txt", beside=["dsl", "sinkhorn"])
    result = evaluate(run, store=root, device="cpu", scoring=scoring)
    assert result["name"].startswith("planted [")
    assert result["name"].endswith("another gallery than the protocol's]")
    assert (result["gallery"], result["queries"], result["gallery_list"]) == (20, 40, str(tmp_path / "twenty.txt"))
    assert result["labels"]["score"] == f"{result['name']} + labels"
    assert result["labels"]["added"] == 38  # all captions but those of the first clip
    assert result["labels"]["t2v"]["R@10"] > result["t2v"]["R@10"]
    assert [each["name"] for each in result["beside"]] == ["dsl", "sinkhorn"]
    assert Path(result["files"]["scores"]).name == "planted-test-twenty.json"
    best = evaluate(run, store=root, device="cpu", scoring=Scoring(captions="best-caption"))
    assert best["name"].startswith("planted, best-caption [62/64")
    assert best["queries"] == 64
    assert best["t2v"]["R@1"] >= whole["t2v"]["R@1"]
    joined = evaluate(run, store=root, device="cpu", scoring=Scoring(captions="paragraph"))
    assert joined["queries"] == 64
    (tmp_path / "other.txt").write_text("zebra\n")
    with pytest.raises(UsageError, match="are not in split 'test'; give a list of its clips"):
        evaluate(run, store=root, device="cpu", scoring=Scoring.read(gallery=tmp_path / "other.txt"))


def test_a_run_moves_with_its_folder(root: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    assert (
        evaluate(tmp_path / "moved", store=root, device="cpu")["t2v"] == evaluate(run, store=root, device="cpu")["t2v"]
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"protocol": "other"}, "no protocol 'other'; it has planted"),
        ({"split": "val"}, "no split 'val'; it has train, test, empty"),
        ({"split": "empty"}, "split 'empty' of protocol 'planted' is empty"),
        ({"dataset": "absent"}, "no dataset 'absent'; there are small"),
        ({"store": "nowhere"}, "no dataset 'small'; the store is empty"),
        ({"device": "cuda:x"}, "is not one of auto, cpu, cuda"),
    ],
)
def test_a_wrong_name_is_one_line(root: Path, run: Path, wrong: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        evaluate(run, **{"store": root, "device": "cpu", **wrong})  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_run_and_a_run_without_a_model(root: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        evaluate(tmp_path, store=root, device="cpu")
    shutil.copytree(run, tmp_path / "young")
    (tmp_path / "young" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no model\.safetensors yet"):
        evaluate(tmp_path / "young", store=root, device="cpu")


def test_features_of_another_recipe_are_refused_by_name(run: Path, tmp_path: Path) -> None:
    other = recipe(weights="seed 1", weights_hash="xxh3-128:1")
    plant(tmp_path, of=other)
    with pytest.raises(UsageError) as error:
        evaluate(run, store=tmp_path, device="cpu")
    assert recipe().folder in str(error.value)
    assert other.folder in str(error.value)
    # The same under the right folder's name: found out by the card itself.
    sets = tmp_path / "small" / "features"
    (sets / other.folder).rename(sets / recipe().folder)
    with pytest.raises(SupportsetError, match=r"the card here differs in weights, weights_hash"):
        evaluate(run, store=tmp_path, device="cpu")


def test_clips_without_captions_are_in_the_gallery_and_ask_nothing() -> None:
    split = Split("test", ("a", "b", "c"), (Caption("1", "a", "x"), Caption("2", "c", "y")), frozenset({"c"}))
    scores = score_embeddings(split, np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert scores.t2v_ranks.tolist() == [2.0, MISS]  # b ties with a
    assert scores.v2t_clips == ("a", "c")
    assert scores.v2t_ranks.tolist() == [1.0, MISS]
    assert scores.t2v["MnR"] == (2 + 4) / 2
    assert scores.v2t["MnR"] == (1 + 3) / 2
    assert scores.rsum == 0 + 50 + 50 + 50 + 50 + 50
