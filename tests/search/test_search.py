"""Search: the right clips, their files, and a cache that is never stale."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from supportset.search.run import Run, open_run, search
from supportset.store.errors import UsageError
from supportset.store.read.aligned import AlignedFeatures
from supportset.train.loop.training import train
from supportset.train.model.model import SupportSetModel
from supportset.train.model.weights.model_folder import write_weights
from tests.train.small_store import SmallStore, config, plant, recipe


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return plant(tmp_path_factory.mktemp("store"), missing=("clip03-2",))


@pytest.fixture(scope="module")
def run(store: SmallStore) -> Path:
    path = store.root.parent / f"{store.root.name}-run"
    train(config(support={"captioning": "none"}, optim={"epochs": 3}), store.root, path, device="cpu")
    return path


def test_a_sentence_finds_clips_of_its_concepts(store: SmallStore, run: Path) -> None:
    hits = search(run, "the star that is blue spins here", 3, store.root, device="cpu")
    assert [store.concepts[hit.clip_id] for hit in hits] == [("blue", "star", "spins")] * 3
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(-1 <= hit.score <= 1 for hit in hits)
    assert [hit.path for hit in hits] == [f"{hit.clip_id}.mp4" for hit in hits]
    json.dumps([hit.to_json() for hit in hits])


def test_several_questions_at_once_are_the_same_as_one_by_one(store: SmallStore, run: Path) -> None:
    questions = ["a red ball rolls", "white ring", "something that nobody has said"]
    together = open_run(run, "cpu").open_gallery(store.root).search(questions, 4)
    for question, hits in zip(questions, together, strict=True):
        alone = search(run, question, 4, store.root, device="cpu")
        assert [hit.clip_id for hit in alone] == [hit.clip_id for hit in hits]
        assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], abs=1e-6)


def test_a_split_is_searched_alone_and_k_may_exceed_it(store: SmallStore, run: Path) -> None:
    hits = search(run, "a red ball", 1000, store.root, split="test", device="cpu")
    assert sorted(hit.clip_id for hit in hits) == sorted(
        set(store.dataset.split_clips("planted", "test")) - {"clip03-2"}  # no features, so it cannot be found
    )


def test_a_folder_of_clips_without_captions_is_searched_by_a_run_trained_elsewhere(
    store: SmallStore, run: Path
) -> None:
    mine = plant(store.root, "mine", captions=False)
    hits = search(run, "a green box jumps", 3, store.root, dataset="mine", device="cpu")
    assert {mine.concepts[hit.clip_id] for hit in hits} == {("green", "box", "jumps")}
    shutil.rmtree(store.root / "mine")


def test_embeddings_are_kept_and_made_again_when_anything_changes(
    store: SmallStore, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    root = plant(tmp_path / "features").root
    encoded: list[int] = []
    original = Run.encode_stored

    def encode_stored(self: Run, features: AlignedFeatures, clip_ids: list[str]) -> object:
        encoded.append(len(clip_ids))
        return original(self, features, clip_ids)

    monkeypatch.setattr(Run, "encode_stored", encode_stored)

    def ask() -> tuple[list[str], int]:
        encoded.clear()
        hits = search(run, "a red ball rolls", 5, root, device="cpu")
        return [hit.clip_id for hit in hits], sum(encoded)

    shutil.rmtree(run / "cache", ignore_errors=True)
    first = ask()
    assert first[1] == 192
    assert ask() == (first[0], 0)
    assert search(run, "a red ball rolls", 5, root, split="test", device="cpu")
    assert sum(encoded) == 0  # a split takes its part of what is kept

    shutil.rmtree(root)
    plant(root, noise=0.2)  # the same clips and recipe, other bytes
    assert ask()[1] == 192
    assert ask()[1] == 0

    model = SupportSetModel.from_pretrained(run)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    write_weights(model.state_dict(), run)
    assert ask()[1] == 192

    for damaged in (run / "cache").rglob("embedding.npy"):
        damaged.write_bytes(damaged.read_bytes()[:-100] + bytes(100))
    del model
    gc.collect()
    assert ask()[1] == 192
    assert ask()[1] == 0


def test_a_run_whose_cache_cannot_be_written_is_searched(store: SmallStore, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("cache")))
    (copy / "cache").write_text("a file in the place of the folder")
    hits = search(copy, "a red ball rolls", 3, store.root, device="cpu")
    assert hits == search(run, "a red ball rolls", 3, store.root, device="cpu")


def test_a_clip_with_a_broken_embedding_is_not_found(
    store: SmallStore, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("cache")))
    best = search(run, "a red ball rolls", 1, store.root, device="cpu")[0].clip_id
    original = Run.encode_stored

    def encode_stored(self: Run, features: AlignedFeatures, clip_ids: list[str]) -> object:
        found = original(self, features, clip_ids)
        found[[clip_id == best for clip_id in clip_ids]] = np.nan
        return found

    monkeypatch.setattr(Run, "encode_stored", encode_stored)
    searcher = open_run(copy, "cpu").open_gallery(store.root)
    hits = searcher.search(["a red ball rolls"], len(searcher.clip_ids))[0]
    assert len(hits) == len(searcher.clip_ids) - 1
    assert best not in {hit.clip_id for hit in hits}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": "  "}, "is blank"),
        ({"k": 0}, "give at least 1"),
        ({"dataset": "absent"}, "no dataset 'absent'; there are small"),
        ({"protocol": "planted"}, "needs a --split"),
        ({"protocol": "other", "split": "test"}, "no protocol 'other'"),
        ({"split": "empty"}, "no clip of split 'empty'"),
    ],
)
def test_wrong_questions_are_one_line(store: SmallStore, run: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        search(run, **{"text": "a ball", "store": store.root, "device": "cpu", **wrong})  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dataset_of_another_recipe_is_refused_by_name(store: SmallStore, run: Path) -> None:
    other = recipe(sampling={"fps": 2.0})
    plant(store.root, "other", captions=False, of=other)
    with pytest.raises(UsageError) as error:
        search(run, "a ball", 5, store.root, dataset="other", device="cpu")
    assert recipe().folder in str(error.value)
    assert other.folder in str(error.value)
    shutil.rmtree(store.root / "other")
