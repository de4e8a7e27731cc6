"""Videos that are deleted, renamed or replaced between two runs, and folders that are not mounted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from supportset.extract.progress.summary import Summary
from supportset.extract.readers.annotate import read_dataset
from supportset.store.errors import UsageError
from supportset.store.files import open_folder
from supportset.store.format.dataset import open_dataset
from supportset.store.format.index import read_all
from supportset.store.maintain.prune import prune
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.import_card import ImportOptions
from supportset.store.transfer.importing import import_features
from supportset.store.transfer.opening import open_source
from tests.extract.fakes import MeanColour
from tests.extract.films import write_video
from tests.extract.runs import extract_with, row

pytestmark = pytest.mark.slow


def picture(path: Path, seed: int) -> None:
    """A photograph of noise: its content, and mostly its size, differ from those of other seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20 + seed, 30, 3), np.uint8)).save(path)


class Mine:
    """A folder of files of one's own, its store, and how many forwards the last run made."""

    def __init__(self, root: Path) -> None:
        self.videos, self.store = root / "videos", root / "features"
        self.forwards = 0

    def extract(self, gone: Any = "auto", backbone: MeanColour | None = None, **options: Any) -> Summary:
        found = read_dataset("folder", self.videos, None, "mine")
        tables = found.write(self.store, gone)
        backbone = backbone or MeanColour()
        chosen = {"workers": 1, "batch_size": 4, "device": "cpu", "progress": False, "dtype": "float32"} | options
        summary = extract_with(tables, self.store, self.videos, backbone, **chosen)
        self.forwards = len(backbone.batches)
        found.write(self.store, gone, summary.gone)
        return summary

    @property
    def gone(self) -> list[str]:
        return sorted(open_dataset(self.store, "mine").gone)


def features(summary: Summary, clip_id: str) -> bytes:
    values, _ = (stored := FeatureSet.open(summary.path)).read([clip_id])
    return values.tobytes() + stored.read_timestamps([clip_id]).tobytes()


@pytest.fixture
def mine(tmp_path: Path) -> Mine:
    for seed, name in enumerate("abcd"):
        picture(tmp_path / "videos" / f"{name}.png", seed)
    return Mine(tmp_path)


def test_a_deleted_file_is_gone_until_it_is_back(mine: Mine, tmp_path: Path) -> None:
    summary = mine.extract()
    assert (summary.status, summary.gone, mine.gone) == ({"ok": 4}, [], [])
    os.rename(mine.videos / "b.png", tmp_path / "b.png")
    summary = mine.extract()
    assert (summary.status, summary.gone, mine.gone) == ({"ok": 3}, ["b"], ["b"])
    assert summary.to_json()["gone"] == ["b"]
    assert "b" in FeatureSet.open(summary.path), "the features stay"
    os.rename(tmp_path / "b.png", mine.videos / "b.png")
    summary = mine.extract()
    assert (summary.status, summary.gone, mine.gone) == ({"ok": 4}, [], [])
    assert mine.forwards == 0


def test_a_file_that_comes_back_with_another_time_keeps_its_features_and_with_another_content_not(mine: Mine) -> None:
    before = features(mine.extract(), "b")
    os.utime(mine.videos / "b.png", ns=(1, 1))
    again = mine.extract()
    assert mine.forwards == 0
    assert (row(again, "b")["source_mtime_ns"], row(again, "b")["generation"]) == (1, 1)
    assert features(again, "b") == before
    Image.new("RGB", (40, 40), (9, 200, 9)).save(mine.videos / "b.png")
    assert features(mine.extract(), "b") != before
    assert mine.forwards == 1


def test_a_file_that_is_replaced_by_one_without_features_is_gone(mine: Mine) -> None:
    """The index still has the features of the earlier file: they are of no video that is there."""
    first = mine.extract()
    content = (mine.videos / "b.png").read_bytes()
    (mine.videos / "b.png").write_bytes(b"no picture any more")
    assert (mine.gone, mine.extract().gone) == ([], ["b"])
    assert mine.gone == ["b"]
    assert mine.extract(limit=1).status == {"ok": 1}
    assert mine.gone == ["b"], "also after a run that does not try it again"
    (mine.videos / "b.png").write_bytes(content)
    summary = mine.extract()
    assert (summary.status, summary.gone, mine.gone) == ({"ok": 4}, [], [])
    assert features(summary, "b") == features(first, "b")


@pytest.mark.parametrize("to", ["e.png", "below/b.png"])
def test_a_renamed_file_keeps_its_features(mine: Mine, to: str) -> None:
    first = mine.extract()
    before, seconds = features(first, "b"), row(first, "b")["source_hash"]
    (mine.videos / to).parent.mkdir(exist_ok=True)
    os.rename(mine.videos / "b.png", mine.videos / to)
    summary = mine.extract()
    assert mine.forwards == 0
    assert (summary.status, summary.gone) == ({"ok": 4}, ["b"])
    new = os.path.splitext(to)[0]
    assert features(summary, new) == before
    assert (row(summary, new)["source_path"], row(summary, new)["source_hash"]) == (to, seconds)


def test_taken_over_features_keep_the_provenance_of_the_run_that_computed_them(mine: Mine) -> None:
    earlier = MeanColour()
    earlier.given = "fake:mean@/earlier"
    mine.extract(backbone=earlier)
    shutil.copy(mine.videos / "b.png", mine.videos / "copy.png")
    picture(mine.videos / "new.png", 12)
    path = Path(mine.extract().path)
    made_with = {
        clip_id: index.provenance["backbone"]
        for index, rows in zip(*read_all(open_folder(path / "shards")), strict=True)
        for clip_id in rows["clip_id"].to_pylist()
    }
    assert made_with == dict.fromkeys(("a", "b", "c", "d", "copy"), "fake:mean@/earlier") | {"new": MeanColour.given}


def test_another_file_of_equal_size_is_extracted(mine: Mine) -> None:
    first = mine.extract()
    content = (mine.videos / "b.png").read_bytes()
    os.unlink(mine.videos / "b.png")
    (mine.videos / "e.png").write_bytes(content[:-1] + b"\0")  # behind the picture: still one
    summary = mine.extract()
    assert mine.forwards == 1
    assert row(summary, "e")["source_hash"] != row(first, "b")["source_hash"]


def test_a_part_of_a_renamed_file_keeps_its_features_and_no_other_part(tmp_path: Path) -> None:
    mine = Mine(tmp_path)
    mine.videos.mkdir()
    write_video(mine.videos / "one.mp4", 75)
    captions = mine.videos / "captions.csv"
    captions.write_text("path,caption,start,end\none,first,0,1.5\none,second,1.5,3\n")
    first = mine.extract()
    os.rename(mine.videos / "one.mp4", mine.videos / "two.mp4")
    captions.write_text("path,caption,start,end\ntwo,first,0,1.5\ntwo,third,1,3\n")
    second = mine.extract()
    assert mine.forwards > 0
    assert second.gone == ["one@0-1.5", "one@1.5-3"]
    assert features(second, "two@0-1.5") == features(first, "one@0-1.5")
    assert len({row(second, clip)["seconds"] for clip in ("two@0-1.5", "two@1-3")} - {0.0}) == 1
    captions.unlink()
    third = mine.extract()
    assert mine.forwards > 0, "all of the file is another clip than its parts"
    assert row(third, "two")["seconds"] > 0


def test_a_clip_whose_row_stays_in_the_captions_file_is_missing_from_its_split(mine: Mine) -> None:
    captions = "".join(f"{name}.png,about {name}\n" for name in "abcd")
    (mine.videos / "captions.csv").write_text(f"path,caption\n{captions}")
    mine.extract()
    os.unlink(mine.videos / "b.png")
    summary = mine.extract(strict=True)
    assert (summary.status, summary.gone, summary.exit_code) == ({"ok": 3, "gone": 1}, ["b"], 1)
    assert mine.extract(max_failures=0.0).exit_code == 0, "no failure of a present clip"
    assert "b" in open_dataset(mine.store, "mine").split_clips("folder", "all")


def test_all_feature_sets_know_it_and_imported_ones_prove_nothing(mine: Mine, tmp_path: Path) -> None:
    mine.extract()
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    np.save(arrays / "a.npy", np.ones((2, 4), np.float32))
    (mine.videos / "captions.csv").write_text("path,caption\nnever.mp4,no video of it\n")
    mine.extract()
    np.save(arrays / "never.npy", np.ones((2, 4), np.float32))
    import_features(mine.store, "mine", open_source(arrays), ImportOptions("net"))
    os.unlink(mine.videos / "d.png")
    other = mine.extract(backbone=MeanColour(scale=2.0))  # has no features of d, another set has
    assert (mine.gone, other.gone) == (["d"], [])


def test_a_folder_that_is_not_mounted_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    mine = Mine(tmp_path)
    for seed in range(13):
        picture(mine.videos / ("disk" if seed < 11 else ".") / f"{seed}.png", seed)
    summary = mine.extract()
    tables = (mine.store / "mine" / "dataset.json").read_bytes()
    os.rename(mine.videos / "disk", tmp_path / "disk")
    with pytest.raises(UsageError, match=r"11 of the 13 clips .* \(as 'disk/0'\): mount .*--gone mark .*--gone keep"):
        mine.extract()
    assert (mine.store / "mine" / "dataset.json").read_bytes() == tables
    assert (mine.extract("keep").gone, mine.gone) == ([], [])
    assert len(mine.extract("mark").gone) == len(mine.gone) == 11
    assert len(mine.extract().gone) == 11, "it is known"
    assert mine.extract("keep").gone == mine.gone == []
    os.rename(tmp_path / "disk", mine.videos / "moved")  # as many files as are gone, of their sizes: not lost
    summary = mine.extract()
    assert mine.forwards == 0
    assert (len(summary.gone), summary.status) == (11, {"ok": 13})


def test_a_folder_that_cannot_be_listed_proves_nothing(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(mine.videos / "locked" / "e.png", 9)
    mine.extract()
    found = read_dataset("folder", mine.videos, None, "mine")
    found.annotations.clips.pop()
    found.annotations.splits.pop()
    stat = os.stat

    def locked(path: Any, **options: Any) -> os.stat_result:
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr("supportset.extract.work.gone.os.stat", locked)
    assert found.write(mine.store, "auto").gone == frozenset()


def test_damaged_tables_are_written_anew(mine: Mine) -> None:
    mine.extract()
    os.unlink(mine.videos / "b.png")
    (mine.store / "mine" / "dataset.json").write_bytes(b"{")
    (mine.store / "mine" / "clips.parquet").unlink()
    assert mine.extract().gone == mine.gone == ["b"]


def test_a_run_that_does_not_look_for_videos_changes_no_mark(mine: Mine, tmp_path: Path) -> None:
    mine.extract()
    os.unlink(mine.videos / "b.png")
    mine.extract()
    elsewhere = tmp_path / "annotations"
    shutil.copytree(mine.videos, elsewhere)
    picture(elsewhere / "b.png", 1)
    assert read_dataset("folder", elsewhere, None, "mine").write(mine.store).gone == {"b"}


def test_a_damaged_set_of_another_encoder_keeps_the_marks(mine: Mine) -> None:
    first = mine.extract()
    os.unlink(mine.videos / "b.png")
    mine.extract()
    next(Path(first.path).glob("shards/*.parquet")).write_bytes(b"damaged")
    assert mine.extract(backbone=MeanColour(scale=2.0)).status == {"ok": 3}
    assert mine.gone == ["b"]


def test_a_pruned_clip_is_extracted_again_when_its_file_is_back(mine: Mine, tmp_path: Path) -> None:
    first = mine.extract()
    before = features(first, "b")
    os.rename(mine.videos / "b.png", tmp_path / "b.png")
    mine.extract()
    assert prune(first.path, mine.gone).clips == ["b"]
    assert (mine.extract().gone, mine.gone) == ([], [])
    os.rename(tmp_path / "b.png", mine.videos / "b.png")
    again = mine.extract()
    assert mine.forwards == 1
    assert features(again, "b") == before


def test_damaged_features_are_taken_over_where_a_run_keeps_them(tmp_path: Path) -> None:
    mine = Mine(tmp_path)
    mine.videos.mkdir()
    cut = write_video(mine.videos / "cut.mkv", 75, size=(160, 120))
    os.truncate(cut, cut.stat().st_size // 2)
    assert mine.extract().status == {"damaged": 1}
    os.rename(cut, mine.videos / "new.mkv")
    assert (mine.extract().status, mine.forwards) == ({"damaged": 1}, 0)
    os.rename(mine.videos / "new.mkv", mine.videos / "newer.mkv")
    summary = mine.extract(on_damage="drop")
    assert summary.status == {"damaged": 1}
    assert "newer" not in FeatureSet.open(summary.path)
