"""Pruning: the features of some clips go, those of all others stay exactly, whatever happens meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supportset.store.errors import SupportsetError
from supportset.store.files import open_folder
from supportset.store.format.index import read_all
from supportset.store.maintain import prune as pruning
from supportset.store.maintain.prune import plan_pruning, prune
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from supportset.store.write.writer import FeatureWriter
from tests.store.faults import FaultyDisk, Killed
from tests.store.samples import DIM, FORMATS, assert_holds, card, clip, clips, write


def without(*clip_ids: str) -> dict[str, tuple]:
    return {clip_id: both for clip_id, both in clips(6).items() if clip_id not in clip_ids}


@pytest.mark.parametrize("form", FORMATS)
def test_the_features_go_and_their_space(tmp_path: Path, form: str) -> None:
    write(tmp_path, clips(6), clips_per_shard=2, shard_format=form)
    plan = plan_pruning(tmp_path, {"clip0", "clip2", "clip3", "never"})
    steps = sum(len(clips(6)[clip_id][0]) for clip_id in ("clip0", "clip2", "clip3"))
    assert (plan.clips, plan.bytes) == (["clip0", "clip2", "clip3"], steps * (DIM * 2 + 16))
    assert_holds(tmp_path, clips(6))  # a plan removes nothing
    done = prune(tmp_path, {"clip0", "clip2", "clip3", "never"})
    assert (done.clips, done.bytes, done.shards, done.damaged) == (plan.clips, plan.bytes, 2, [])
    assert_holds(tmp_path, without("clip0", "clip2", "clip3"))
    assert {problem.kind for problem in verify(tmp_path).problems} == {"folder_name"}  # as the test names it
    indexes, _ = read_all(open_folder(tmp_path / "shards"))
    assert len(indexes) == 2  # the shard of two pruned clips is gone, with all its files
    assert {file.name.partition(".")[0] for file in (tmp_path / "shards").iterdir()} == {
        index.shard for index in indexes
    }


def test_no_older_row_counts_afterwards_and_failures_of_others_stay(tmp_path: Path) -> None:
    for seed in (7, 8):
        with FeatureWriter(tmp_path, card()) as writer:
            writer.add("clip0", *clip(seed))
            writer.add(f"other{seed}", *clip(seed))
    with FeatureWriter(tmp_path, card()) as writer:
        writer.fail("clip0", "unreadable", "")
        writer.fail("clip1", "missing", "")
    assert prune(tmp_path, ["clip0"]).clips == ["clip0"]
    assert_holds(tmp_path, {"other7": clip(7), "other8": clip(8)})
    assert {row["clip_id"] for row in FeatureSet.open(tmp_path).rows().to_pylist()} == {"other7", "other8", "clip1"}


def test_archives_stay_archives(tmp_path: Path) -> None:
    write(tmp_path, clips(6), clips_per_shard=3)
    convert_feature_set(tmp_path, "zarr", compress="zstd:9")
    prune(tmp_path, ["clip1"])
    assert_holds(tmp_path, without("clip1"))
    assert all(not index.arrays for index in read_all(open_folder(tmp_path / "shards"))[0])


def test_nothing_to_prune_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, clips(6), clips_per_shard=2)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert prune(tmp_path, ["never"]).clips == []
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_a_kill_at_every_step_loses_no_other_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = 0
    while True:
        path = tmp_path / str(at)
        for seeds in ({"clip0": 9, "clip1": 1}, {"clip1": 9, "clip0": 0}, {"clip2": 2}):  # each supersedes one
            write(path, {clip_id: clip(seed) for clip_id, seed in seeds.items()})
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, at, "kill")
            try:
                prune(path, ["clip0", "clip1"])
            except Killed:
                features = FeatureSet.open(path)
                for clip_id in features.clip_ids:  # what is left is what counted before
                    newest = clip({"clip0": 0, "clip1": 9, "clip2": 2}[clip_id])
                    assert features.read([clip_id])[0].tobytes() == newest[0].tobytes()
                assert "clip2" in features
                assert {problem.kind for problem in verify(path).harmful} == {"folder_name"}  # as the test names it
        prune(path, ["clip0", "clip1"])
        assert_holds(path, {"clip2": clip(2)})
        if not disk.struck:
            break
        at += 1
    assert at > 20


def test_a_damaged_shard_stays_with_its_clips(tmp_path: Path) -> None:
    write(tmp_path, clips(4), clips_per_shard=2)
    file = next(
        file
        for file in (tmp_path / "shards").glob("*.zarr/values/c.0.0")
        if clips(4)["clip0"][0].tobytes()[:12] in file.read_bytes()
    )
    os.truncate(file, 3)
    done = prune(tmp_path, ["clip0", "clip2"])
    assert done.clips == ["clip2"]
    assert len(done.damaged) == 1
    assert str(file.name) in done.damaged[0]
    assert set(FeatureSet.open(tmp_path).clip_ids) == {"clip0", "clip1", "clip3"}


def test_what_is_extracted_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, clips(4), clips_per_shard=2)
    original = pruning._write_without

    def and_extract(*args: object) -> None:
        original(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(pruning, "_write_without", original)
        write(tmp_path, {"clip0": clip(5)})

    monkeypatch.setattr(pruning, "_write_without", and_extract)
    assert prune(tmp_path, ["clip0", "clip3"]).clips == ["clip3"]
    assert_holds(tmp_path, {"clip0": clip(5), "clip1": clip(1), "clip2": clip(2)})


def test_an_open_reader_reads_on_or_says_why_not(tmp_path: Path) -> None:
    write(tmp_path, clips(4))
    features = FeatureSet.open(tmp_path)
    prune(tmp_path, ["clip0"])
    assert features.read(["clip1"])[0].tobytes() == clip(1)[0].tobytes()
    with pytest.raises(SupportsetError, match=r"'clip0'.*open the set again"):
        features.read(["clip0"])
