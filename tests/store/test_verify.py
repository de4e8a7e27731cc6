"""Verify: each fault is found and named, with the clips it concerns; what is damaged can be dropped and redone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder
from supportset.store.format.index import ShardIndex, index_name, read_all, write_index
from supportset.store.format.manifest import Entry, put_entry
from supportset.store.maintain.compact import compact
from supportset.store.maintain.repair import drop_damaged
from supportset.store.maintain.verify import Problem, VerifyReport, verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.store.faults import FaultyDisk, Killed
from tests.store.samples import FORMATS, Clip, assert_holds, card, clip, clips, recipe, write

pytestmark = pytest.mark.slow

formats = pytest.mark.parametrize("shard_format", FORMATS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Folder of the set, named as its recipe wants it."""
    return tmp_path / recipe().folder


def only(report: VerifyReport) -> Problem:
    (problem,) = report.problems
    return problem


def indexes(path: Path) -> list[ShardIndex]:
    return read_all(LocalFolder(path / "shards"))[0]


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def place_of(path: Path, array: str, clip_id: str) -> tuple[Path, int]:
    """The file and the offset at which a clip's features begin."""
    row = next(row for row in FeatureSet.open(path).rows().to_pylist() if row["clip_id"] == clip_id)
    location = next(index for index in indexes(path) if index.shard == row["shard"]).arrays[array]
    step = location.nbytes // location.shape[0]
    return path / "shards" / location.file, location.offset + row["offset"] * step


@formats
def test_all_is_well(path: Path, shard_format: str) -> None:
    write(path, clips(7), shard_format=shard_format, clips_per_shard=3)
    with FeatureWriter(path, card()) as writer:
        writer.fail("broken", "unreadable", "")
    told: list[tuple[int, int]] = []
    report = verify(path, progress=lambda done, total: told.append((done, total)))
    assert report.problems == []
    size = sum(file.size for index in indexes(path) for file in index.files)
    assert (report.shards, report.clips, report.bytes) == (4, 7, size)
    assert told[-1] == (size, size)
    assert told == sorted(told)


@formats
@pytest.mark.parametrize("array", ["values", "timestamps"])
def test_a_flipped_bit_names_the_clip(path: Path, shard_format: str, array: str) -> None:
    write(path, clips(6), shard_format=shard_format, clips_per_shard=3)
    file, at = place_of(path, array, "clip4")
    flip(file, at)
    problem = only(verify(path))
    assert (problem.kind, problem.path, problem.clips, problem.harmless) == ("content", str(file), ("clip4",), False)
    assert "only 1 clip is redone" in problem.fix


@formats
def test_every_byte_of_a_shard_is_looked_at(path: Path, shard_format: str) -> None:
    write(path, clips(2), shard_format=shard_format)
    for stated in indexes(path)[0].files:
        for at in {0, stated.size // 2, stated.size - 1}:
            file = path / "shards" / stated.name
            flip(file, at)
            assert only(verify(path)).path == str(file)
            flip(file, at)
    assert verify(path).problems == []


@formats
def test_a_truncated_file_names_the_clips_that_are_cut(path: Path, shard_format: str) -> None:
    write(path, clips(5), shard_format=shard_format)
    file, at = place_of(path, "values", "clip3")
    if shard_format == "hdf5":
        assert place_of(path, "timestamps", "clip0")[1] > at  # cut as well, and with them the times of all
    os.truncate(file, at + 1)
    problem = only(verify(path))
    assert (problem.kind, problem.path) == ("size", str(file))
    expected = [f"clip{i}" for i in range(5)] if shard_format == "hdf5" else ["clip3", "clip4"]
    assert sorted(problem.clips) == expected
    os.truncate(file, 0)
    assert len(only(verify(path)).clips) == 5


@formats
def test_a_missing_shard(path: Path, shard_format: str) -> None:
    write(path, clips(4), shard_format=shard_format, clips_per_shard=2)
    index = indexes(path)[0]
    root = path / "shards" / index.files[0].name.partition("/")[0]
    shutil.rmtree(root) if root.is_dir() else root.unlink()
    report = verify(path)
    assert {problem.kind for problem in report.problems} == {"missing_file"}
    assert len(report.problems) == len(index.files)
    assert len(report.damaged_clips) == 2
    assert report.damaged_clips == sorted(report.problems[0].clips)


@formats
def test_a_flipped_bit_in_an_index(path: Path, shard_format: str) -> None:
    write(path, clips(4), shard_format=shard_format, clips_per_shard=2)
    (file, _) = sorted((path / "shards").glob("*.parquet"))
    flip(file, file.stat().st_size - 1)
    problem = next(problem for problem in verify(path).problems if problem.kind == "index")
    assert problem.path == str(file)
    assert "store verify --drop-damaged" in problem.fix
    assert not problem.harmless
    assert verify(path).shards == 1  # the other is still checked


def test_a_newer_index_and_a_broken_link(path: Path) -> None:
    write(path, clips(1))
    (path / "shards" / index_name("0" * 16)).symlink_to("nowhere")
    problem = only(verify(path))
    assert (problem.kind, problem.fix) == ("index", "remove the broken link")


@formats
def test_an_index_that_contradicts_its_shard(path: Path, shard_format: str) -> None:
    write(path, clips(2), shard_format=shard_format)
    folder = LocalFolder(path / "shards")
    ((index,), (rows,)) = read_all(folder)
    values = index.arrays["values"]
    for wrong in (replace(values, offset=10**9), replace(values, shape=(2, values.shape[1]))):
        write_index(folder, replace(index, arrays={**index.arrays, "values": wrong}), rows)
        problem = only(verify(path))
        assert (problem.kind, problem.shard) == ("index", index.shard)
    write_index(folder, replace(index, files=(), arrays={}), rows)
    assert "no file that holds them" in next(p.says for p in verify(path).problems if p.kind == "index")
    write_index(folder, replace(index, recipe_hash="0" * 16), rows)
    assert only(verify(path)).kind == "recipe"


@formats
def test_what_no_reader_looks_at_is_told_and_harmless(path: Path, shard_format: str) -> None:
    write(path, clips(2), shard_format=shard_format)
    shards = path / "shards"
    index = indexes(path)[0]
    suffix = {"zarr": ".zarr", "hdf5": ".h5"}[shard_format]
    root = shards / f"{index.shard}{suffix}"
    orphan = shards / f"{'0' * 16}{suffix}"
    put_entry(LocalFolder(shards), "0" * 16, Entry())
    shutil.copytree(root, orphan) if root.is_dir() else shutil.copy(root, orphan)
    (shards / ".tmp-12345678-x.parquet").write_text("half")
    (shards / ".cache").write_text("ours")
    expected = {
        ("orphan", orphan),
        ("orphan", shards / f"{'0' * 16}.json"),
        ("temporary", shards / ".tmp-12345678-x.parquet"),
    }
    foreign = [path / "notes.txt", shards / "backup.parquet"] + ([root / "values" / "c.1.0"] if root.is_dir() else [])
    for file in foreign:
        file.write_text("mine")
        expected.add(("foreign", file))
    report = verify(path)
    assert {(problem.kind, Path(problem.path)) for problem in report.problems} == expected
    assert report.harmful == []


@formats
def test_a_lost_index_is_found_and_its_features_stay(path: Path, shard_format: str) -> None:
    write(path, clips(6), shard_format=shard_format, clips_per_shard=2)
    lost, _, kept = sorted((path / "shards").glob("*.parquet"))
    content = lost.read_bytes()
    lost.unlink()
    problem = only(verify(path))
    assert (problem.kind, problem.path, problem.shard, problem.harmless) == ("index", str(lost), lost.stem, False)
    there = sorted(file for file in (path / "shards").rglob("*"))
    for use in (FeatureSet.open, lambda path: compact(path, safe_age=0.0), lambda path: write(path, clips(1))):
        with pytest.raises(SupportsetError, match=f"{lost.name}: the index file is missing: restore"):
            use(path)
    assert sorted(file for file in (path / "shards").rglob("*")) == there
    lost.write_bytes(content)
    assert_holds(path, clips(6))
    lost.unlink()
    dropped(path)
    assert verify(path).problems == []
    assert len(FeatureSet.open(path)) == 4
    kept.unlink()
    (path / "shards" / f"{kept.stem}.json").unlink()  # now nothing but the shard itself is left of it
    problem = next(each for each in verify(path).problems if each.kind == "unlisted")
    assert not problem.harmless
    assert compact(path, safe_age=0.0).unlisted == [problem.path]
    assert Path(problem.path).exists()


def test_a_set_from_before_there_were_manifests(path: Path) -> None:
    write(path, clips(4), clips_per_shard=2)
    orphan = next((path / "shards").glob("*.zarr"))
    shutil.copytree(orphan, path / "shards" / f"{'0' * 16}.zarr")
    for entry in (path / "shards").glob("*.json"):
        entry.unlink()
    report = verify(path)
    assert sorted(problem.kind for problem in report.problems) == ["manifest", "manifest", "unlisted"]
    assert report.harmful == []
    assert_holds(path, clips(4))
    assert compact(path, clips_per_shard=2, safe_age=0.0).unlisted
    assert not list((path / "shards").glob("*.json"))
    shutil.rmtree(path / "shards" / f"{'0' * 16}.zarr")
    assert compact(path, clips_per_shard=2).unlisted == []
    assert verify(path).problems == []
    assert len(list((path / "shards").glob("*.json"))) == 2


@pytest.mark.parametrize("at", [3, 60, -2])
def test_a_damaged_manifest_entry(path: Path, at: int) -> None:
    write(path, clips(2))
    (entry,) = (path / "shards").glob("*.json")
    flip(entry, at)
    assert verify(path).harmful
    assert_holds(path, clips(2))
    compact(path)
    assert verify(path).problems == []


def test_every_byte_of_index_and_card_is_looked_at(path: Path) -> None:
    write(path, clips(2))
    for file in (*(path / "shards").glob("*.parquet"), path / "card.json"):
        content = file.read_bytes()
        for at in range(0, len(content), max(1, len(content) // 40)):
            flip(file, at)
            assert verify(path).harmful, (file, at)
            flip(file, at)
        for damaged in (b"", content[:-1], content + b" ", bytes(len(content))):
            file.write_bytes(damaged)
            assert verify(path).harmful, (file, damaged[:10])
            file.write_bytes(content)
    assert verify(path).problems == []


def test_a_replaced_shard_is_told_and_not_checked(path: Path) -> None:
    from supportset.store.transfer.convert import convert_feature_set

    write(path, clips(2))
    convert_feature_set(path, "hdf5", keep_old=True)
    (path / "shards" / f"{next((path / 'shards').glob('*.zarr')).name}" / "zarr.json").unlink()
    problem = only(verify(path))
    assert (problem.kind, problem.harmless) == ("replaced", True)


def test_card(tmp_path: Path, path: Path) -> None:
    write(path, clips(1))
    other = tmp_path / "other-name"
    path.rename(other)
    problem = only(verify(other))
    assert (problem.kind, problem.harmless) == ("folder_name", False)
    assert recipe().folder in problem.says
    flip(other / "card.json", 0)
    assert only(verify(other)).kind == "card"
    (other / "card.json").unlink()
    with pytest.raises(UsageError, match="not a feature set"):
        verify(other)


def dropped(path: Path) -> list[str]:
    return drop_damaged(path, {problem.shard for problem in verify(path).harmful})


@formats
@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "structure"])
def test_dropping_what_is_damaged_keeps_the_rest(path: Path, shard_format: str, harm: str) -> None:
    content = clips(6)
    with FeatureWriter(path, card(), shard_format=shard_format) as writer:
        writer.fail("broken", "unreadable", "no codec")
        for clip_id, (values, times) in content.items():
            writer.add(clip_id, values, times)
    write(path, {"other": clip(50)}, shard_format=shard_format)
    content["other"] = clip(50)
    file, at = place_of(path, "values", "clip4")
    actions: dict[str, Callable[[], object]] = {
        "flip": lambda: flip(file, at),
        "cut": lambda: os.truncate(file, at),
        "gone": file.unlink,
        "structure": lambda: flip(file if shard_format == "hdf5" else file.with_name("zarr.json"), 9),
    }
    actions[harm]()
    damaged = verify(path).damaged_clips
    assert dropped(path) == damaged
    if harm in ("flip", "structure"):
        assert damaged == (["clip4"] if harm == "flip" else [])
    assert verify(path).problems == []
    left = {clip_id: features for clip_id, features in content.items() if clip_id not in damaged}
    assert_holds(path, left)
    assert FeatureSet.open(path).statuses() == {"ok": len(left), "unreadable": 1}
    write(path, {clip_id: content[clip_id] for clip_id in damaged}, shard_format=shard_format)
    assert_holds(path, content)


@formats
def test_no_older_row_of_a_dropped_clip_comes_back(path: Path, shard_format: str) -> None:
    with FeatureWriter(path, card()) as writer:
        writer.fail("a", "unreadable", "")
    write(path, {"a": clip(1), "b": clip(2)}, shard_format=shard_format)
    write(path, {"a": clip(3)}, shard_format=shard_format)
    flip(*place_of(path, "values", "a"))
    assert dropped(path) == ["a"]
    assert_holds(path, {"b": clip(2)})
    assert FeatureSet.open(path).statuses() == {"ok": 1}
    assert verify(path).problems == []


@pytest.mark.parametrize("operation", ["rename", "unlink", "rmtree"])
def test_a_repair_that_stops_anywhere_brings_back_no_older_row(
    path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Two damaged shards: the row of each clip that counts is in one, an older one in the other."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for fails, holds in (("a", "b"), ("b", "a")):
        with FeatureWriter(path, card()) as writer:
            writer.fail(fails, "missing", "")
            writer.add(holds, *clip(1))
            writer.add(f"beside {holds}", *clip(2))
    for clip_id in "ab":
        flip(*place_of(path, "values", clip_id))
    whole = path.with_name("whole")
    path.rename(whole)
    left = {f"beside {clip_id}": clip(2) for clip_id in "ab"}
    at = struck = 0
    while at == struck:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            disk = FaultyDisk(patch, (operation, at), "kill")
            dropped(path)
        assert "missing" not in FeatureSet.open(path).statuses()
        dropped(path)
        assert_holds(path, left)
        struck += bool(disk.struck)
        at += 1
    assert at > 1
    compact(path, safe_age=0.0)
    assert_holds(path, left)
    assert verify(path).problems == []


def test_shards_that_need_each_other_and_keep_nothing_go_together(path: Path) -> None:
    for fails, holds in (("a", "b"), ("b", "a")):
        with FeatureWriter(path, card()) as writer:
            writer.fail(fails, "missing", "")
            writer.add(holds, *clip(1))
    for clip_id in "ab":
        flip(*place_of(path, "values", clip_id))
    assert dropped(path) == ["a", "b"]
    assert list((path / "shards").iterdir()) == []
    assert_holds(path, {})


def test_a_damaged_row_that_counts_no_more_costs_no_clip(path: Path) -> None:
    content: dict[str, Clip] = {"a": clip(1)}
    write(path, content)
    file, at = place_of(path, "values", "a")
    content["a"] = clip(2)
    write(path, content)
    flip(file, at)
    assert dropped(path) == []
    assert_holds(path, content)
    assert verify(path).problems == []
