"""A process is suspended for longer than it takes unfinished files to count as rubbish: nothing of it is lost.

While the one process stands still before any of its operations, another one compacts as if hours had gone by, or
deletes the set.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder
from supportset.store.maintain.compact import compact
from supportset.store.maintain.removal import remove_feature_set
from supportset.store.maintain.repair import drop_damaged
from supportset.store.maintain.verify import verify
from supportset.store.read.catalog import FeatureSetInfo, list_feature_sets
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from supportset.store.write.writer import FeatureWriter
from tests.store.faults import FaultyDisk
from tests.store.samples import FORMATS, assert_holds, card, clip, clips, recipe, write
from tests.store.test_verify import place_of

pytestmark = pytest.mark.slow

formats = pytest.mark.parametrize("shard_format", FORMATS)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def before(path: Path) -> None:
    """What is there when the process begins: two shards, a row that counts no more."""
    write(path, {"old": clip(50), "clip0": clip(51)})
    write(path, {"older": clip(52), "old": clip(53)})


OLD = {"old": clip(53), "older": clip(52)}


def at_every_operation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[Path], object],
    meanwhile: Callable[[Path], object],
    first: int = 0,
    step: int = 1,
    prepare: Callable[[Path], object] = before,
) -> list[tuple[Path, str, str]]:
    """Suspend ``work`` before each of its operations in turn, or before every ``step``-th.

    Returns
    -------
    list
        For each: the set's folder, the operation, and the error that the work ended with, or nothing.
    """
    outcomes = []
    prepare(start := tmp_path / "start" / recipe().folder)
    while True:
        path = tmp_path / "d" / "features" / str(len(outcomes)) / recipe().folder
        shutil.copytree(start, path)
        told = ""
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, first + step * len(outcomes), lambda path=path: meanwhile(path))
            try:
                work(path)
            except SupportsetError as error:
                told = str(error)
        assert "\n" not in told
        if not disk.struck:
            return outcomes
        outcomes.append((path, disk.struck, told))


@formats
def test_a_writer_while_a_set_is_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str) -> None:
    content = clips(3)

    def work(path: Path) -> None:
        with FeatureWriter(path, card(), shard_format=shard_format) as writer:
            writer.fail("bad", "unreadable", "")
            for clip_id, (values, times) in content.items():
                writer.add(clip_id, values, times)

    outcomes = at_every_operation(tmp_path, monkeypatch, work, lambda path: compact(path, safe_age=0.0))
    assert {struck for _, struck, _ in outcomes} >= {"open", "write", "fsync", "makedirs", "rename"}
    assert len(outcomes) > (40 if shard_format == "zarr" else 15)
    for path, _, told in outcomes:
        assert told == ""
        for _ in range(2):
            assert_holds(path, {**OLD, **content})
            assert FeatureSet.open(path).statuses() == {"ok": 5, "unreadable": 1}
            assert verify(path).harmful == []
            compact(path, safe_age=0.0)
        assert verify(path).problems == []


@formats
def test_a_writer_while_its_set_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str) -> None:
    def remove(path: Path) -> None:
        remove_feature_set(FeatureSetInfo("d", path.name, path))

    def work(path: Path) -> None:
        write(path, clips(2), shard_format=shard_format)

    outcomes = at_every_operation(tmp_path, monkeypatch, work, remove)
    assert len(outcomes) > 15
    for path, _, told in outcomes:
        assert "was deleted while it was being written: run again" in told
        assert list_feature_sets(path.parents[2]) == []
        assert LocalFolder(path / "shards").names() == []
        work(path)  # a set of its own: nothing of the old one comes back
        assert_holds(path, clips(2))


@pytest.mark.parametrize("work", ["compact", "convert"])
@formats
def test_a_compaction_or_conversion_while_a_set_is_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str, work: str
) -> None:
    other = {"zarr": "hdf5", "hdf5": "zarr"}[shard_format]

    def prepare(path: Path) -> None:
        before(path)
        write(path, {"clip0": clip(51)}, shard_format=other)

    def run(path: Path) -> None:
        if work == "compact":
            compact(path, safe_age=0.0)
        else:
            convert_feature_set(path, shard_format)

    outcomes = at_every_operation(
        tmp_path, monkeypatch, run, lambda path: compact(path, safe_age=0.0), FORMATS.index(shard_format), 2, prepare
    )
    assert len(outcomes) > 15
    for path, _, told in outcomes:
        assert not told or "run again" in told or "back as written" in told or "cannot" in told
        for again in (False, True):
            if again:
                run(path)
                compact(path, safe_age=0.0)
            assert_holds(path, {**OLD, "clip0": clip(51)})
            assert verify(path).harmful == []


@formats
def test_damage_is_dropped_while_the_set_is_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str
) -> None:
    """A shard that another process has merged and removed in between is not written anew without its numbers."""

    def prepare(path: Path) -> None:
        for seed in (60, 61, 62):
            write(path, {"often": clip(seed), f"only{seed}": clip(seed)}, shard_format=shard_format)
        file, at = place_of(path, "values", "often")
        content = bytearray(file.read_bytes())
        content[at] ^= 1
        file.write_bytes(content)

    def drop(path: Path) -> None:
        drop_damaged(path, {problem.shard for problem in verify(path).harmful})

    outcomes = at_every_operation(
        tmp_path, monkeypatch, drop, lambda path: compact(path, safe_age=0.0), prepare=prepare
    )
    assert len(outcomes) > 20
    assert any("run `store verify --drop-damaged` again" in told for _, _, told in outcomes)
    for path, _, told in outcomes:
        if told:
            drop(path)
        assert_holds(path, {f"only{seed}": clip(seed) for seed in (60, 61, 62)})
        assert verify(path).harmful == []


class Halting:
    """A writer's seal in a thread, which stands still right before its index is written, or right after.

    Parameters
    ----------
    monkeypatch : makes it stand still
    path : the feature set's folder
    shard_format : of the writer
    point : ``before`` or ``after``
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, shard_format: str, point: str) -> None:
        self._point = point
        self._arrived, self._go_on = threading.Event(), threading.Event()
        self._put = LocalFolder.put
        writer = FeatureWriter(path, card(), shard_format=shard_format)
        for clip_id, (values, times) in clips(2).items():
            writer.add(clip_id, values, times)
        self._thread = threading.Thread(target=writer.seal)
        monkeypatch.setattr(LocalFolder, "put", lambda folder, files, **options: self._halt(folder, files, options))
        self._thread.start()
        self._arrived.wait()

    def _halt(self, folder: LocalFolder, files: Any, options: Any) -> bool:
        halts = threading.current_thread() is self._thread and any(name.endswith(".parquet") for name in files)
        if halts and self._point == "before":
            self._wait()
        done = self._put(folder, files, **options)
        if halts and self._point == "after":
            self._wait()
        return done

    def _wait(self) -> None:
        self._arrived.set()
        self._go_on.wait()

    def finish(self) -> None:
        """Let it go on to its end."""
        self._go_on.set()
        self._thread.join()


@formats
@pytest.mark.parametrize("point", ["before", "after"])
def test_a_compaction_that_has_chosen_its_rubbish_when_the_writer_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str, point: str
) -> None:
    """The other way round: the compaction stands still before its operations, while the writer goes on."""
    at = FORMATS.index(shard_format)
    while True:
        path = tmp_path / str(at) / recipe().folder
        before(path)
        with monkeypatch.context() as patch:
            writing = Halting(patch, path, shard_format, point)
            disk = FaultyDisk(patch, at, writing.finish)
            compact(path, safe_age=0.0)
            writing.finish()
        assert_holds(path, {**OLD, **clips(2)})
        assert verify(path).harmful == []
        compact(path, safe_age=0.0)
        assert_holds(path, {**OLD, **clips(2)})
        if not disk.struck:
            break
        at += 2
    assert at > 20
