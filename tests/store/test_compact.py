"""Compact: the rows that count are kept exactly, at every moment, and whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder, hash_file
from supportset.store.format.card import FeatureCard
from supportset.store.format.index import read_all
from supportset.store.format.manifest import Entry, put_entry
from supportset.store.maintain.compact import compact
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from supportset.store.write.writer import FeatureWriter, Source
from tests.store.faults import FAULTS, FaultyDisk, Killed
from tests.store.samples import FORMATS, Clip, assert_holds, card, clip, clips, recipe, write
from tests.store.test_convert import state

pytestmark = pytest.mark.slow

formats = pytest.mark.parametrize("shard_format", FORMATS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / recipe().folder


def fail(path: Path, clip_id: str, status: str = "unreadable", **options: Any) -> None:
    with FeatureWriter(path, card(), **options) as writer:
        writer.fail(clip_id, status, "no luck", source=Source(f"{clip_id}.mp4", 1, 2))


def history(path: Path, shard_format: str) -> dict[str, Clip]:
    """Small shards, failures, retries, and a clip that was extracted twice."""
    content = clips(6)
    fail(path, "clip1", "missing", shard_format=shard_format)
    fail(path, "broken", shard_format=shard_format)
    write(path, content, shard_format=shard_format, clips_per_shard=2)
    content["clip0"] = clip(99)
    write(path, {"clip0": content["clip0"]}, shard_format=shard_format)
    fail(path, "clip5", shard_format=shard_format)
    return content


def shards(path: Path) -> list[str]:
    return [index.shard for index in read_all(LocalFolder(path / "shards"))[0]]


@formats
def test_all_becomes_one_and_reads_as_before(path: Path, shard_format: str) -> None:
    content = history(path, shard_format)
    before = state(path)
    told: list[tuple[int, int]] = []
    summary = compact(path, progress=lambda done, total: told.append((done, total)))
    assert (summary.shards_before, summary.shards_after, summary.rows_dropped) == (7, 1, 3)
    assert (summary.merged, summary.written, summary.removed, told) == (7, 1, 7, [(7, 7)])
    assert state(path) != before  # offsets are new
    assert [row | {"offset": 0} for row in state(path)] == [row | {"offset": 0} for row in before]
    assert_holds(path, content)
    ((index,), (rows,)) = read_all(LocalFolder(path / "shards"))
    assert len(rows) == 7
    assert index.shard_format == shard_format
    assert index.provenance == {"device": "cpu"}
    for file in index.files:
        stored = path / "shards" / file.name
        assert (stored.stat().st_size, hash_file(stored)) == (file.size, file.xxh3)
    assert verify(path).problems == []
    again = compact(path)
    assert (again.written, again.shards_after, again.removed) == (0, 1, 0)
    assert shards(path) == [index.shard]


def test_shards_are_filled_and_a_second_run_finds_nothing(path: Path) -> None:
    content = clips(23)
    write(path, content, clips_per_shard=2)
    write(path, {"h5": clip(5)}, shard_format="hdf5")
    compact(path, clips_per_shard=5)
    sizes = sorted(len(table) for table in read_all(LocalFolder(path / "shards"))[1])
    assert max(sizes) <= 5
    assert len(sizes) == 7  # 23 clips in pairs: five of four, one of three or so, and one of the other format
    assert_holds(path, {**content, "h5": clip(5)})
    names = shards(path)
    assert compact(path, clips_per_shard=5).written == 0
    assert shards(path) == names
    assert compact(path, bytes_per_shard=1).written == 0


def test_a_shard_of_nothing_that_counts_goes(path: Path) -> None:
    fail(path, "a")
    write(path, {"a": clip(1)}, shard_format="hdf5")
    summary = compact(path)
    assert (summary.shards_after, summary.rows_dropped, summary.written) == (1, 1, 0)
    assert_holds(path, {"a": clip(1)})
    assert FeatureSet.open(path).statuses() == {"ok": 1}


def test_compaction_of_nothing(path: Path) -> None:
    FeatureWriter(path, card())
    assert compact(path).shards_after == 0
    with pytest.raises(UsageError, match="not a feature set"):
        compact(path.parent)
    with pytest.raises(UsageError, match="at least"):
        compact(path, clips_per_shard=0)


def test_ties_are_decided_as_before(path: Path) -> None:
    """Equal generations: the id decides, also against a shard that is not taken up because it is damaged."""
    for trial in range(6):
        where = path.with_name(str(trial))
        writers = [FeatureWriter(where, card()) for _ in range(4)]
        for seed, writer in enumerate(writers):
            writer.add("a", *clip(seed))
            writer.add(f"own{seed}", *clip(seed))
        for writer in writers:
            writer.seal()
        winner = FeatureSet.open(where).read(["a"])[0].tobytes()
        loser = shards(where)[trial % 3]
        loser_values = where / "shards" / f"{loser}.zarr" / "values" / "c.0.0"
        loser_values.write_bytes(b"damaged")
        summary = compact(where)
        assert len(summary.damaged) == 1
        assert loser in shards(where)
        assert FeatureSet.open(where).read(["a"])[0].tobytes() == winner


def test_provenance_of_several_runs(path: Path) -> None:
    for i, device in enumerate(("cpu", "cuda", "cpu")):
        write(path, {f"clip{i}": clip(i)}, card=FeatureCard(recipe(), {"device": device}))
        compact(path)  # a list of lists must not grow
    ((index,), _) = read_all(LocalFolder(path / "shards"))
    assert sorted(each["device"] for each in index.provenance["merged"]) == ["cpu", "cuda"]


def test_rubbish_goes_once_it_is_old(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, {"a": clip(1)})
    root = path / "shards" / f"{shards(path)[0]}.zarr"
    orphan = root.with_name("0" * 16 + ".zarr")
    shutil.copytree(root, orphan)
    put_entry(LocalFolder(root.parent), "0" * 16, Entry())
    temporary = [path / "shards" / ".tmp-12345678-x.zarr", path / ".tmp-12345678-card.json"]
    entry = orphan.with_suffix(".json")
    temporary[0].mkdir()
    (temporary[0] / "part").write_text("half")
    temporary[1].write_text("half")
    foreign = path / "shards" / "notes.txt"
    foreign.write_text("mine")
    os.utime(orphan, (0, 0))  # old by its own account, as a copy that is being made right now
    summary = compact(path)
    assert summary.orphans == []
    assert sorted(summary.orphans_left) == sorted(map(str, [orphan, entry, *temporary]))
    real = LocalFolder.changed
    aged = lambda folder, name: (real(folder, name) or 0) - (0 if "clock" in name else 3601)  # noqa: E731
    monkeypatch.setattr(LocalFolder, "changed", aged)
    summary = compact(path)
    assert sorted(summary.orphans) == sorted(map(str, [orphan, entry, *temporary]))
    assert sorted(os.listdir(path / "shards")) == sorted(
        [root.name, f"{root.stem}.parquet", f"{root.stem}.json", foreign.name]
    )
    monkeypatch.undo()
    temporary[1].write_text("half")
    assert compact(path, safe_age=0.0).orphans == [str(temporary[1])]
    assert_holds(path, {"a": clip(1)})


@formats
@pytest.mark.parametrize("fault", FAULTS, ids=["kill", "ENOSPC"])
def test_a_fault_at_every_operation(
    path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str, fault: int | str
) -> None:
    content = {"a": clip(7)}
    fail(path, "a", shard_format=shard_format)
    write(path, content, shard_format=shard_format)
    fail(path, "b", shard_format=shard_format)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    before = [row | {"offset": 0} for row in state(path)]
    at = 0
    struck = set()
    while True:
        copy = path.with_name(f"at{at}") / path.name
        shutil.copytree(path, copy)
        told = ""
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, at, fault)
            try:
                compact(copy)
            except Killed:
                pass
            except SupportsetError as error:
                told = str(error)
        assert not told or (os.strerror(int(fault)) in told and "\n" not in told)
        if not disk.struck:
            break
        struck.add(disk.struck)
        assert_holds(copy, content)
        assert [row | {"offset": 0} for row in state(copy)] == before
        compact(copy, safe_age=0.0)
        assert [row | {"offset": 0} for row in state(copy)] == before
        assert len(shards(copy)) == 1
        assert_holds(copy, content)
        assert verify(copy).problems == []
        at += 1
    assert at > 20
    assert {"write", "rename", "unlink"} <= struck


def test_a_failed_flush_after_the_commit_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is there although its writer was told otherwise: its shard must be there as well."""
    write(path, clips(4), clips_per_shard=2)
    real = LocalFolder.put

    def failing(self: LocalFolder, files: Any, **options: Any) -> bool:
        done = real(self, files, **options)
        if any(name.endswith(".parquet") for name in files):
            raise SupportsetError(os.strerror(errno.EIO))
        return done

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "put", failing)
        with pytest.raises(SupportsetError):
            compact(path)
    assert_holds(path, clips(4))


@formats
def test_readers_see_the_same_all_the_time(path: Path, shard_format: str) -> None:
    content = clips(12)
    write(path, content, shard_format=shard_format, clips_per_shard=1)
    early = FeatureSet.open(path)  # has mapped nothing yet
    stop = threading.Event()
    faults: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                assert_holds(path, content)
                values, _ = early.read(["clip3", "clip11"])
                assert values.tobytes() == content["clip3"][0].tobytes() + content["clip11"][0].tobytes()
        except (AssertionError, SupportsetError) as error:
            faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for size in (2, 4, 8, 1000):
            compact(path, clips_per_shard=size)
            write(path, {"clip0": content["clip0"]}, shard_format=shard_format)
        convert_feature_set(path, "hdf5")
        convert_feature_set(path, "zarr")
    finally:
        stop.set()
        reader.join()
    assert not faults, faults[0]
    assert_holds(path, content)


@formats
def test_an_open_set_finds_its_clips_again(path: Path, shard_format: str) -> None:
    content = history(path, shard_format)
    readers = [FeatureSet.open(path) for _ in range(3)]
    readers[1].read(["clip1"])
    rows = readers[2].find(list(content))
    write(path, {"clip4": clip(1000)}, shard_format=shard_format)  # later than the readers
    for size in (3, 1000):
        compact(path, clips_per_shard=size)
        for features in readers:
            held = {clip_id: features for clip_id, features in content.items() if clip_id != "clip4"}
            values, _ = features.read_rows(rows[[i for i, c in enumerate(content) if c in held]])
            assert values.tobytes() == b"".join(part[0].tobytes() for part in held.values())
            assert features.read_timestamps(list(held)).tobytes() == b"".join(p[1].tobytes() for p in held.values())
            told = {row["clip_id"]: row["shard"] for row in features.rows().to_pylist()}
            if size == 3 and features is readers[0]:  # later it need not: what is mapped outlives its name
                assert {told[clip_id] for clip_id in held} <= set(shards(path))
            with pytest.raises(SupportsetError, match=r"1 clips have other features.*'clip4'.*open the set again"):
                FeatureSet.read(features, ["clip4"])
    assert_holds(path, {**content, "clip4": clip(1000)})


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "fail", "compact", "compact", "zarr", "hdf5", "keep zarr"]),
        st.integers(0, 4),
        st.integers(0, 99),
    ),
    max_size=9,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_history_reads_as_a_model_in_memory(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    path = tmp_path_factory.mktemp("set")
    model: dict[str, Any] = {}
    failed: dict[str, str] = {}
    FeatureWriter(path, card())
    for action, number, seed in steps:
        clip_id = f"clip{number}"
        if action == "add":
            model[clip_id] = clip(seed)
            write(path, {clip_id: model[clip_id]}, shard_format=FORMATS[seed % 2])
        elif action == "fail":
            failed[clip_id] = f"bad{seed}"
            fail(path, clip_id, failed[clip_id], shard_format=FORMATS[seed % 2])
        elif action == "compact":
            compact(path, clips_per_shard=1 + seed % 5, safe_age=0.0)
        else:
            convert_feature_set(path, action.split()[-1], keep_old="keep" in action)
        assert_holds(path, model)
        told = {row["clip_id"]: row["status"] for row in FeatureSet.open(path).rows().to_pylist()}
        assert told == {**failed, **dict.fromkeys(model, "ok")}
    assert not [p for p in verify(path).harmful if p.kind != "folder_name"]
