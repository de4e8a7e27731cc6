"""What is done to a feature set is done to its thumbnails: verify, repair, compact, convert, prune, remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.store.errors import UsageError
from supportset.store.files import open_folder
from supportset.store.format.card import CARD
from supportset.store.format.index import read_all
from supportset.store.format.thumbnails import thumbnails_path
from supportset.store.maintain.compact import compact
from supportset.store.maintain.prune import plan_pruning, prune
from supportset.store.maintain.removal import plan_removal, remove_feature_set, thumbnails_of
from supportset.store.maintain.repair import drop_damaged
from supportset.store.maintain.verify import verify
from supportset.store.read.catalog import FeatureSetInfo, list_feature_sets
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.show import describe_feature_set, feature_set_json
from supportset.store.read.thumbnails import Thumbnails
from supportset.store.transfer.convert import convert_feature_set
from tests.store.samples import FORMATS, assert_holds, clips, recipe, write
from tests.store.test_thumbnails import opened, pictures, write_thumbnails


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A feature set of six clips in three shards, with thumbnails in six."""
    made = tmp_path / "films" / "features" / recipe().folder
    write(made, clips(6), clips_per_shard=2)
    for i in range(6):
        write_thumbnails(made, {f"clip{i}": pictures(i, 2)})
    return made


def shards(path: Path) -> Path:
    found = thumbnails_path(path)
    assert isinstance(found, Path)
    return found / "shards"


def info(path: Path) -> FeatureSetInfo:
    return FeatureSetInfo("films", path.name, path)


def flip(path: Path, clip_id: str) -> Path:
    """Change a byte of a thumbnail of a clip."""
    stored = opened(path).read(clip_id)
    assert stored
    (file,) = [each for each in shards(path).rglob("c.0.0") if stored in each.read_bytes()]
    content = bytearray(file.read_bytes())
    content[content.index(stored) + 300] ^= 4
    file.write_bytes(content)
    return file


def assert_whole(path: Path, but: tuple[str, ...] = ()) -> None:
    for i in range(6):
        stored = [] if f"clip{i}" in but else [each.jpeg for each in pictures(i, 2)]
        assert [opened(path).read(f"clip{i}", start) for start, _ in opened(path).spans(f"clip{i}")] == stored


def test_verify_reads_every_byte(path: Path) -> None:
    report = verify(path)
    assert report.thumbnails is not None
    assert (report.clips, report.thumbnails.clips, report.harmful) == (6, 6, [])
    file = flip(path, "clip3")
    report = verify(path)
    (problem,) = report.harmful
    assert (problem.path, problem.kind, problem.clips) == (str(file), "content", ("clip3",))
    assert problem.fix.endswith("then `store thumbnails`: only 1 clip is redone")
    assert not report.problems
    assert report.to_json()["thumbnails"]["damaged_clips"] == ["clip3"]


@pytest.mark.parametrize("lost", ["*.parquet", "*.zarr/values/c.0.0", "../card.json"])
def test_verify_finds_what_is_missing(path: Path, lost: str) -> None:
    next(shards(path).glob(lost)).unlink() if "card" not in lost else (shards(path).parent / CARD).unlink()
    assert len(verify(path).harmful) == 1


def test_damaged_ones_are_dropped(path: Path) -> None:
    flip(path, "clip3")
    report = verify(path).thumbnails
    assert report is not None
    assert drop_damaged(report.path, {problem.shard for problem in report.harmful}) == ["clip3"]
    assert_whole(path, but=("clip3",))
    assert_holds(path, clips(6))
    assert not verify(path).harmful


def test_compact(path: Path) -> None:
    summary = compact(path, safe_age=0)
    assert summary.thumbnails is not None
    assert (summary.thumbnails.shards_before, summary.thumbnails.shards_after) == (6, 1)
    assert summary.to_json()["thumbnails"]["merged"] == 6
    assert_whole(path)
    assert not verify(path).problems


def test_open_thumbnails_are_found_after_a_compaction(path: Path) -> None:
    before = opened(path)
    compact(path, safe_age=0)
    assert before.read("clip4", 4.0) == pictures(4, 2)[1].jpeg


def test_convert_and_never_compress(path: Path) -> None:
    summary = convert_feature_set(path, "hdf5", compress="gzip:1")
    assert summary.thumbnails is not None
    assert (summary.thumbnails.converted, summary.thumbnails.compression) == (6, "none")
    indexes, _ = read_all(open_folder(shards(path)))
    assert all(index.shard_format == "hdf5" and index.arrays for index in indexes)
    assert_whole(path)
    assert not verify(path).problems


def test_prune(path: Path) -> None:
    plan = plan_pruning(path, ["clip1", "clip4", "no such clip"])
    assert plan.clips == ["clip1", "clip4"]
    assert (
        plan.bytes
        > plan_pruning(thumbnails_path(path), plan.clips).bytes
        > sum(len(each.jpeg) for i in (1, 4) for each in pictures(i, 2))
    )
    done = prune(path, ["clip1", "clip4", "no such clip"])
    assert (done.clips, done.bytes, done.damaged) == (plan.clips, plan.bytes, [])
    assert_whole(path, but=("clip1", "clip4"))
    assert sorted(FeatureSet.open(path).clip_ids) == ["clip0", "clip2", "clip3", "clip5"]
    assert not verify(path).problems


def test_prune_tells_damaged_thumbnails_and_takes_them_the_next_time(path: Path) -> None:
    flip(path, "clip1")
    assert len(prune(path, ["clip1"]).damaged) == 0, "a shard that holds nothing else is removed as it is"
    compact(path, safe_age=0)
    flip(path, "clip2")
    done = prune(path, ["clip3"])
    assert len(done.damaged) == 1
    assert "clip3" not in FeatureSet.open(path)
    report = verify(path).thumbnails
    assert report is not None
    drop_damaged(report.path, {problem.shard for problem in report.harmful})
    assert prune(path, ["clip3"]).clips == ["clip3"]
    assert_whole(path, but=("clip1", "clip2", "clip3"))


def test_removed_with_the_set(path: Path) -> None:
    plan = plan_removal(info(path))
    assert plan.files == sum(each.is_file() for each in path.rglob("*"))
    remove_feature_set(info(path))
    assert not list(path.parent.iterdir())


def test_removed_alone(path: Path) -> None:
    remove_feature_set(thumbnails_of(info(path)))
    assert Thumbnails.open(path) is None
    assert_holds(path, clips(6))
    assert not verify(path).problems
    with pytest.raises(UsageError, match="has no thumbnails"):
        thumbnails_of(info(path))


def test_foreign_files_among_them_are_not_lost(path: Path) -> None:
    (shards(path).parent / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"holiday.jpg: is not a file of the store"):
        remove_feature_set(info(path))
    assert any(problem.kind == "foreign" for problem in verify(path).thumbnails.problems)  # type: ignore[union-attr]


def test_show(path: Path) -> None:
    features = list_feature_sets(path.parents[2])[0].open()
    told = feature_set_json(features)["thumbnails"]
    assert told["clips"] == 6
    assert told["bytes"] > sum(len(each.jpeg) for i in range(6) for each in pictures(i, 2))
    assert f"thumbnails    6 clips, {told['bytes'] / 1e6:,.1f} MB" in describe_feature_set(features)
    remove_feature_set(thumbnails_of(info(path)))
    assert feature_set_json(features)["thumbnails"] is None


@pytest.mark.parametrize("shard_format", FORMATS)
def test_on_an_object_store(s3: str, shard_format: str) -> None:
    place = f"{s3}/films/features/{recipe().folder}"
    write(place, clips(3), shard_format=shard_format)  # type: ignore[arg-type]
    for i in range(3):
        write_thumbnails(place, {f"clip{i}": pictures(i, 2)}, shard_format)  # type: ignore[arg-type]
    (found,) = list_feature_sets(s3)
    assert compact(place, safe_age=0).thumbnails.merged == 3  # type: ignore[union-attr]
    read = Thumbnails.open(found.path)
    assert read is not None
    assert [read.read("clip2", each.start_s) for each in pictures(2, 2)] == [each.jpeg for each in pictures(2, 2)]
    assert not verify(place).problems
    assert plan_removal(found).files == len(open_folder(found.path.parent).files(found.path.name))
    remove_feature_set(found)
    assert not open_folder(f"{s3}/films").files("features")
    assert Thumbnails.open(found.path) is None
