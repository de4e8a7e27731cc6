"""A fault at every single operation of the write path: nothing half-written is seen, nothing committed is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder, local
from supportset.store.format.dataset import open_dataset, write_dataset
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.store.faults import FAULTS, FaultyDisk, Killed
from tests.store.samples import FORMATS, Clip, assert_holds, card, clips, write

pytestmark = pytest.mark.slow

FAULT_NAMES = [errno.errorcode.get(fault, "") if isinstance(fault, int) else fault for fault in FAULTS]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def full_disk(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_two_shards(path: Path, content: dict[str, Clip], shard_format: str, sealed: list[str]) -> None:
    """Add clips, two a shard; note those whose shard the writer reported as sealed."""
    with FeatureWriter(path, card(), shard_format=shard_format, clips_per_shard=2) as writer:
        for i, (clip_id, (values, times)) in enumerate(content.items()):
            writer.add(clip_id, values, times)
            if i % 2:
                sealed += list(content)[i - 1 : i + 1]


@pytest.mark.parametrize("fault", FAULTS, ids=FAULT_NAMES)
@pytest.mark.parametrize("shard_format", FORMATS)
def test_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str, fault: int | str) -> None:
    content = clips(4)
    at = 0
    struck = set()
    while True:
        path = tmp_path / str(at)
        sealed: list[str] = []
        told = ""
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, at, fault)
            try:
                write_two_shards(path, content, shard_format, sealed)
            except Killed:
                pass
            except SupportsetError as error:
                told = str(error)
        if told:
            assert "\n" not in told
            assert str(path) in told
            assert os.strerror(int(fault)) in told
        if not disk.struck:
            break
        struck.add(disk.struck)
        if not (path / "card.json").exists():
            assert not sealed
            with pytest.raises(UsageError, match=r"no card\.json"):
                FeatureSet.open(path)
        else:
            seen = FeatureSet.open(path).clip_ids
            assert set(sealed) <= set(seen)
            # A fault right after the rename of an index: the shard is there, though its writer was told otherwise.
            assert sorted(seen) in ([], ["clip0", "clip1"], list(content))
            assert_holds(path, {clip_id: content[clip_id] for clip_id in seen})
        # The next run goes on as if nothing had been.
        seen = FeatureSet.open(path).clip_ids if sealed else []
        write(path, {clip_id: content[clip_id] for clip_id in content if clip_id not in seen})
        assert_holds(path, content)
        at += 1
    assert at > 40
    assert {"open", "write", "fsync", "close", "mkdir", "rename"} <= struck


@pytest.mark.parametrize("shard_format", FORMATS)
def test_disk_full_leaves_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str) -> None:
    write(tmp_path, {}, shard_format=shard_format)
    for operation in ("mkdir", "write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, full_disk)
            with pytest.raises(SupportsetError, match="No space left on device; free some space and run again"):
                write(tmp_path, clips(3), shard_format=shard_format)
        assert LocalFolder(tmp_path).names() in (["card.json"], ["card.json", "shards"])
        assert LocalFolder(tmp_path / "shards").names() == []
    write(tmp_path, clips(3), shard_format=shard_format)
    assert_holds(tmp_path, clips(3))


def test_a_writer_can_seal_again_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = clips(3)
    writer = FeatureWriter(tmp_path, card())
    for clip_id, (values, times) in content.items():
        writer.add(clip_id, values, times)
    with monkeypatch.context() as patch:
        FaultyDisk(patch, 5, errno.ENOSPC)
        with pytest.raises(SupportsetError, match="No space left"):
            writer.seal()
    assert_holds(tmp_path, {})
    writer.seal()
    assert_holds(tmp_path, content)


def test_a_failed_seal_that_the_caller_swallows_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swallowing() -> None:
        with FeatureWriter(tmp_path, card()) as writer:
            writer.add("clip0", *clips(1)["clip0"])
            monkeypatch.setattr(os, "write", full_disk)
            with pytest.raises(SupportsetError):
                writer.seal()

    with pytest.raises(SupportsetError, match="No space left"):
        swallowing()
    assert_holds(tmp_path, {})


def test_an_interrupted_seal_is_done_when_leaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), FeatureWriter(tmp_path, card()) as writer:  # noqa: PT012
        writer.add("clip0", *clips(1)["clip0"])
        monkeypatch.setattr(local, "sync_folder", interrupted)
        writer.seal()
    assert_holds(tmp_path, clips(1))


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(local.os, "write", lambda descriptor, data: real(descriptor, data[:100]))
    write(tmp_path, clips(3))
    assert_holds(tmp_path, clips(3))


def tables(text: str) -> dict[str, Any]:
    return {
        "clips": [{"clip_id": text}],
        "captions": [{"caption_id": "k", "clip_id": text, "text": text}],
        "splits": [{"protocol": "p", "split": "train", "clip_id": text}],
        "protocols": {"p": {"train": 1}},
        "sources": [],
    }


@pytest.mark.parametrize("fault", FAULTS, ids=FAULT_NAMES)
def test_dataset_is_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int | str) -> None:
    at = 0
    told = 0
    outcomes = set()
    while True:
        root = tmp_path / str(at)
        write_dataset(root, "world", **tables("old"))
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, at, fault)
            try:
                write_dataset(root, "world", **tables("new"))
            except Killed:
                pass
            except SupportsetError:
                told += 1
        if not disk.struck:
            break
        found = open_dataset(root, "world")
        (text,) = found.captions["text"].to_pylist()
        assert found.clips["clip_id"].to_pylist() == found.splits["clip_id"].to_pylist() == [text]
        outcomes.add(text)
        write_dataset(root, "world", **tables("new"))
        assert open_dataset(root, "world").captions["text"].to_pylist() == ["new"]
        assert sorted(path.name for path in (root / "world").iterdir() if not path.name.startswith(".tmp-")) == [
            "captions.parquet",
            "clips.parquet",
            "dataset.json",
            "splits.parquet",
        ]
        at += 1
    assert at > 40
    assert outcomes == {"old", "new"}
    assert bool(told) == (fault != "kill")
