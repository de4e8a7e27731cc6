"""Extracting some clips again: what agrees, what does not, and what cannot be compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supportset.extract.decode.sampling import Sampling
from supportset.extract.recheck.recorded import Makers, check_backbone, load_recorded_backbone
from supportset.extract.recheck.reextract import Reextraction, reextract
from supportset.extract.recheck.tolerance import FORWARD, tolerance
from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.dataset import Dataset
from supportset.store.maintain.compact import compact
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.extract.fakes import MeanColour, MeanOfRows, dataset_of
from tests.extract.films import write_video
from tests.extract.runs import extract_with

pytestmark = pytest.mark.slow

COUNT = 6


class Place:
    """A store, its videos, and the one feature set."""

    def __init__(self, folder: Path) -> None:
        self.root, self.videos = folder / "features", folder / "videos"
        self.videos.mkdir()
        paths: dict[str, str | None] = {}
        for i in range(COUNT):
            write_video(self.videos / f"{i}.mp4", 20 + 10 * i)
            paths[f"c{i}"] = f"{i}.mp4"
        self.dataset: Dataset = dataset_of(self.root, paths, c5=(0.5, 1.7))

    def extract(self, backbone: MeanColour | None = None, **options: Any) -> FeatureSet:
        options = {"sampling": Sampling(fps=5.0), "workers": 1, "device": "cpu", "progress": False} | options
        return FeatureSet.open(
            extract_with(self.dataset, self.root, self.videos, backbone or MeanColour(), **options).path
        )

    def again(
        self, stored: FeatureSet, backbone: MeanColour | None = None, count: int = COUNT, **options: Any
    ) -> Reextraction:
        return reextract(stored, self.dataset, self.videos, backbone or MeanColour(), count, **options)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def outcomes(found: Reextraction) -> dict[str, str]:
    return {clip.clip_id: clip.outcome for clip in found.clips}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_extracted_agrees(place: Place, dtype: str) -> None:
    found = place.again(place.extract(dtype=dtype))
    assert set(outcomes(found).values()) == {"agrees"}
    assert len(found.compared) == COUNT
    told = found.to_json()
    assert 0 <= told["mean"] <= told["worst"] < (5e-4 if dtype == "float16" else 1e-6)
    assert told["cosine"] > 1 - 1e-6
    assert {clip.tolerance for clip in found.clips} == {tolerance("fp32", dtype, ("cpu",))}
    assert sum(clip.steps for clip in found.clips) == sum(place.extract(dtype=dtype).lengths(outcomes(found)))


def test_grid_features_agree(place: Place) -> None:
    found = place.again(place.extract(MeanOfRows()), MeanOfRows())
    assert set(outcomes(found).values()) == {"agrees"}
    assert sum(clip.steps for clip in found.clips) == 8 * sum(place.extract().lengths(outcomes(found)))


def test_the_seed_chooses(place: Place) -> None:
    stored = place.extract(clips_per_shard=2)
    chosen = [[clip.clip_id for clip in place.again(stored, count=2, seed=seed).clips] for seed in range(8)]
    assert [clip.clip_id for clip in place.again(stored, count=2, seed=3).clips] == chosen[3]
    assert len({tuple(ids) for ids in chosen}) > 1
    assert {clip_id for ids in chosen for clip_id in ids} == {f"c{i}" for i in range(COUNT)}
    assert len(place.again(stored, count=100).clips) == COUNT
    assert len(place.again(stored, exclude={"c1", "c2"}).clips) == COUNT - 2


def test_other_features_differ_and_are_named(place: Place) -> None:
    class Off(MeanColour):
        """Another feature for one step of one clip: by as much as float16 may be wrong, times ten."""

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            values = super().forward(frames)
            if sum(self.batches) == self.batches[0]:
                values[1] *= 1 + 10 * tolerance("fp32", "float16", ("cpu",))
            return values

    found = place.again(place.extract(Off(), workers=1))
    assert list(outcomes(found).values()).count("agrees") == COUNT - 1
    (wrong,) = found.wrong
    assert wrong.clip_id == "c0"
    assert wrong.says.startswith("relative difference 0.005")
    assert wrong.says.endswith(" at 0.20 s, more than 0.00059")


def test_frames_of_another_moment_differ(place: Place) -> None:
    stored = place.extract()
    moved = dataset_of(place.root, {f"c{i}": f"{i}.mp4" for i in range(COUNT)}, c5=(0.7, 1.9))
    found = reextract(stored, moved, place.videos, MeanColour(), COUNT)
    assert [clip.clip_id for clip in found.wrong] == ["c5"]
    longer = dataset_of(place.root, {f"c{i}": f"{i}.mp4" for i in range(COUNT)}, c5=(0.5, 2.1))
    (wrong,) = reextract(stored, longer, place.videos, MeanColour(), COUNT).wrong
    assert wrong.says == "gives 8 steps, not the 6 at the times stored"


def test_changed_and_absent_files_are_told(place: Place) -> None:
    stored = place.extract()
    write_video(place.videos / "0.mp4", 33)
    (place.videos / "1.mp4").unlink()
    os.utime(place.videos / "2.mp4", ns=(1, 1))  # touched, with the same content
    found = place.again(stored)
    assert outcomes(found) == dict.fromkeys(("c2", "c3", "c4", "c5"), "agrees") | {"c0": "changed", "c1": "absent"}
    assert [clip.clip_id for clip in found.wrong] == ["c0"]
    assert len(place.again(stored, count=5).compared) == 5, "an absent clip is not one of the five"
    with pytest.raises(UsageError, match="holds no file of the 6 clips"):
        reextract(stored, place.dataset, place.root, MeanColour(), 2)


def test_damaged_clips_are_compared_too(place: Place) -> None:
    cut = write_video(place.videos / "cut.mkv", 75, size=(160, 120))
    os.truncate(cut, cut.stat().st_size // 2)
    dataset = dataset_of(place.root, {"cut": "cut.mkv"})
    place.dataset = dataset
    found = place.again(place.extract())
    assert outcomes(found) == {"cut": "agrees"}
    assert found.clips[0].steps > 1


def test_precision_and_device_of_each_shards_writer_count(place: Place, tmp_path: Path) -> None:
    recipe = Recipe("video", "fake", "none", "x", {}, {"fps": 1}, "pixels", "mean", 3, "float16")
    path = tmp_path / "set"
    runs = [{"precision": "bf16", "device": "cuda: A"}, {"precision": "fp32", "device": "cpu"}]
    for number, provenance in enumerate(runs):
        with FeatureWriter(path, FeatureCard(recipe, provenance)) as writer:
            writer.add(str(number), np.ones((1, 3), np.float32), np.zeros((1, 2)))
    stored = FeatureSet.open(path)
    shards = dict(zip(*(stored.rows()[name].to_pylist() for name in ("clip_id", "shard")), strict=True))
    makers = Makers(stored)
    assert makers.of(shards["0"]) == ("bf16", "bf16", ("cuda: A",))
    assert makers.of(shards["1"]) == ("fp32", "fp32", ("cpu",))
    compact(path)
    merged = FeatureSet.open(path)
    assert Makers(merged).of(merged.rows()["shard"].to_pylist()[0]) == ("fp32", "bf16", ("cpu", "cuda: A"))


def test_tolerances_are_ordered() -> None:
    assert tolerance("fp32", "float32", ("cpu", "cpu")) < tolerance("fp32", "float16", ("cpu", "cpu"))
    assert tolerance("fp32", "float16", ("cpu", "cuda: A")) == pytest.approx(0.015, rel=0.05)
    assert list(FORWARD.values()) == sorted(FORWARD.values())


def test_another_backbone_is_refused_in_one_line(place: Place) -> None:
    stored = place.extract()

    def changed(name: str, value: Any) -> MeanColour:
        backbone = MeanColour()
        setattr(backbone, name, value)
        return backbone

    check_backbone(stored.card.recipe, changed("name", "fake:renamed"), "set")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"weights that hash to xxh3-128:00, those of fake:mean.* hash to xxh3-128:01"):
        check_backbone(stored.card.recipe, changed("weights_hash", "xxh3-128:01"), "set")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"computes other features now .differs in layer.: use the versions"):
        check_backbone(stored.card.recipe, changed("layer", "stars"), "set")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"backbone cannot be loaded.*--backbone NAME@PATH"):
        load_recorded_backbone(stored)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "text"}, "features of kind 'text'"),
        ({"weights_hash": "unknown"}, "imported features"),
    ],
)
def test_sets_that_no_backbone_made(tmp_path: Path, fields: dict[str, str], says: str) -> None:
    plain = Recipe("video", "fake", "none", "x", {}, {"fps": 1}, "pixels", "mean", 3, "float16")
    with FeatureWriter(tmp_path, FeatureCard(Recipe(**{**plain.to_json(), **fields}))) as writer:
        writer.add("a", np.ones((1, 3), np.float32), np.zeros((1, 2)))
    with pytest.raises(UsageError, match=says):
        load_recorded_backbone(FeatureSet.open(tmp_path))
