"""Reading with checks, asking ahead, and files that must be fetched first."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xxhash

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder, MappedFile, disk_reads
from supportset.store.files.mapping import LocalMapping
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.mapped_shards import PATIENCE
from tests.store.samples import DIM, FORMATS, clips, write

ROW = DIM * 2  # bytes


class Distant:
    """A mapped file whose bytes are wrong until they were fetched."""

    complete = False

    def __init__(self, content: bytes) -> None:
        self._whole = content
        self._room = bytearray(b"\xaa" * len(content))
        self.content = memoryview(self._room)
        self.asked: list[tuple[int, int]] = []
        self.fetched: list[tuple[int, int]] = []

    def expect_random(self) -> None:
        pass

    def ask(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.asked += ranges

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.fetched += ranges
        for start, stop in ranges:
            self._room[start:stop] = self._whole[start:stop]


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> dict[str, Distant]:
    """Files by name, as they are mapped: none is complete."""
    files: dict[str, Distant] = {}

    def far(self: LocalFolder, name: str) -> MappedFile:
        return files.setdefault(name, Distant((self.path / name).read_bytes()))

    monkeypatch.setattr(LocalFolder, "map", far)
    return files


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the kernel is asked to read ahead."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(LocalMapping, "ask", lambda self, ranges: asked.extend(ranges))
    return asked


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("name", ["values", "timestamps"])
def test_a_damaged_clip_is_not_read_where_that_is_checked(tmp_path: Path, shard_format: str, name: str) -> None:
    content = clips(6)
    write(tmp_path, content, shard_format=shard_format)
    before = FeatureSet.open(tmp_path)
    before.read(content)
    before.read_timestamps(content)
    plain = FeatureSet.open(tmp_path)
    damaged = plain.rows().to_pylist()[3]
    row = (damaged["offset"] + 1) * (ROW if name == "values" else 16)
    (index,) = plain._indexes
    location = index.arrays[name]
    file = tmp_path / "shards" / location.file
    data = bytearray(file.read_bytes())
    data[location.offset + row + 2] ^= 4
    file.write_bytes(data)
    checked = FeatureSet.open(tmp_path)
    read = checked.read if name == "values" else checked.read_timestamps
    others = [clip_id for clip_id in content if clip_id != damaged["clip_id"]]
    read(others)
    with pytest.raises(SupportsetError, match=rf"the {name} of 1 clips \('{damaged['clip_id']}'\)") as raised:
        read([*others, damaged["clip_id"]])
    assert "verify --drop-damaged" in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(SupportsetError, match=f"the {name} of 1 clips"):
        list(checked.scan())
    FeatureSet.open(tmp_path, check=False).read(content)
    before.read(content)  # compared once is enough


def test_far_bytes_are_fetched_before_they_are_read(tmp_path: Path, distant: dict[str, Distant]) -> None:
    content = clips(40)
    write(tmp_path, content, clips_per_shard=15)
    features = FeatureSet.open(tmp_path)
    asked = ["clip3", "clip38", "clip0", "clip17", "clip3"]
    values, offsets = features.read(asked)
    assert values.tobytes() == b"".join(content[clip_id][0].tobytes() for clip_id in asked)
    assert features.read_timestamps(asked).tobytes() == b"".join(content[clip_id][1].tobytes() for clip_id in asked)
    for file in distant.values():  # asked for first, so that all come side by side
        assert file.asked == file.fetched
    scanned = {clip_id: (v.tobytes(), t.tobytes()) for clip_id, v, t in features.scan()}
    assert scanned == {clip_id: (v.tobytes(), t.tobytes()) for clip_id, (v, t) in content.items()}
    assert offsets[-1] == len(values)
    for file in distant.values():
        file.complete = True
    features.read(content)  # learns that all is here by now
    before = sum(len(file.fetched) for file in distant.values())
    assert features.read(asked)[0].tobytes() == values.tobytes()
    assert sum(len(file.fetched) for file in distant.values()) == before


def test_what_is_fetched_is_what_was_asked_for_and_near_to_it(tmp_path: Path, distant: dict[str, Distant]) -> None:
    long = {f"clip{i}": (np.full((20_000, DIM), i, np.float16), np.zeros((20_000, 2))) for i in range(8)}
    write(tmp_path, long)
    FeatureSet.open(tmp_path).read(["clip6", "clip1", "clip2"])
    (file,) = (file for name, file in distant.items() if "values" in name)
    size = 20_000 * ROW
    assert file.fetched == [(1 * size, 3 * size), (6 * size, 7 * size)]


def test_clips_are_asked_for_until_batches_come_as_fast_as_from_memory(
    tmp_path: Path, local: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = clips(200)
    write(tmp_path, content)
    features = FeatureSet.open(tmp_path)
    rows = features.find(content)
    mapped = features._mapped["values"]
    steps = sum(len(values) for values, _ in content.values())
    took = 1.0
    noted = mapped.copied
    monkeypatch.setattr(mapped, "copied", lambda clips, rows, seconds, reads: noted(clips, rows, took, 0))
    for _ in range(5):
        features.read_rows(rows)
    assert local == [(0, steps * ROW)] * 5  # slow: from a disk
    took = 1e-6
    for _ in range(PATIENCE):
        features.read_rows(rows)
    assert len(local) == 5 + PATIENCE
    for _ in range(5):
        features.read_rows(rows)
    assert len(local) == 5 + PATIENCE  # fast: nothing is asked for any more
    took = 1.0
    features.read_rows(rows)
    features.read_rows(rows)
    assert len(local) == 6 + PATIENCE  # from the batch after a slow one on


def test_what_was_asked_for_and_came_fast_is_no_sign_of_memory(
    tmp_path: Path, local: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast disk that is asked ahead gives a batch as fast as memory does: the kernel's count tells them apart."""
    write(tmp_path, clips(3))
    features = FeatureSet.open(tmp_path)
    rows = features.find(features.clip_ids)
    mapped = features._mapped["values"]
    noted = mapped.copied
    monkeypatch.setattr(mapped, "copied", lambda clips, rows, seconds, reads: noted(clips, rows, 1e-6, reads))
    blocks = iter(range(0, 8000, 8))
    monkeypatch.setattr(
        "supportset.store.read.mapped_shards.disk_reads", lambda: next(blocks)
    )  # each wish has something read
    for _ in range(2 * PATIENCE):
        features.read_rows(rows)
    assert len(local) == 2 * PATIENCE
    monkeypatch.setattr("supportset.store.read.mapped_shards.disk_reads", lambda: 0)
    for _ in range(2 * PATIENCE):
        features.read_rows(rows)
    assert len(local) == 3 * PATIENCE - 1  # nothing more after as many from memory, the last one among them


def test_pages_that_are_touched_cold_count_as_read(tmp_path: Path, local: list[tuple[int, int]]) -> None:
    write(tmp_path, clips(9))
    features = FeatureSet.open(tmp_path)
    rows = features.find(features.clip_ids)
    for _ in range(2 * PATIENCE):
        features._mapped["values"].copied(9, 9, 1e-6, 0)
    assert not features._mapped["values"].cold
    features._mapped["values"].copied(9, 9, 1e-6, 8)
    assert features._mapped["values"].cold
    features.read_rows(rows)
    assert len(local) == 1


def test_a_few_cold_pages_are_no_reason_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel takes memory back bit by bit, asking for all of a batch would cost more than the pages do."""
    write(tmp_path, clips(9))
    features = FeatureSet.open(tmp_path)
    features.read(features.clip_ids)
    mapped = features._mapped["values"]
    for blocks, cold in ((0, False), (8 * 256 // 16, False), (8 * 256 // 16 + 8, True)):
        for _ in range(PATIENCE):
            mapped.copied(256, 256, 1e-6, 0)
        mapped.copied(256, 256, 1e-6, blocks)
        assert mapped.cold is cold
        for _ in range(PATIENCE):
            mapped.copied(256, 256, 1e-6, 0)
        counts = iter((0, blocks))
        monkeypatch.setattr("supportset.store.read.mapped_shards.disk_reads", lambda counts=counts: next(counts))
        mapped.ask(np.zeros((256, 3), np.int64))
        assert mapped.cold is cold


def test_prefetch_asks_and_reads_nothing(tmp_path: Path, local: list[tuple[int, int]]) -> None:
    write(tmp_path, clips(9))
    features = FeatureSet.open(tmp_path)
    features.prefetch(features.find(["clip2"]))
    start = sum(features.lengths(["clip0", "clip1"])) * ROW
    assert local == [(start, start + features.lengths(["clip2"])[0] * ROW)]
    for _ in range(PATIENCE):
        features._mapped["values"].copied(1, 1, 0.0, 0)
    features.prefetch(features.find(["clip3"]))
    assert len(local) == 1


def test_what_was_prefetched_is_not_asked_for_again(tmp_path: Path, local: list[tuple[int, int]]) -> None:
    write(tmp_path, clips(9))
    features = FeatureSet.open(tmp_path)
    batches = [features.find([f"clip{number}"]) for number in range(3)]
    for rows in batches:
        features.prefetch(rows)
    assert len(local) == 3
    for rows in (batches[1], batches[0], batches[2]):
        features.read_rows(rows)
    assert len(local) == 3
    features._mapped["values"]._fast = 0
    features.read_rows(batches[1])  # it may have been evicted since
    assert len(local) == 4


def test_a_scan_asks_for_a_shard_at_a_time(tmp_path: Path, local: list[tuple[int, int]]) -> None:
    content = clips(20)
    write(tmp_path, content, clips_per_shard=10)
    features = FeatureSet.open(tmp_path)
    for _ in range(PATIENCE):
        features._mapped["values"].copied(1, 1, 0.0, 0)
        features._mapped["timestamps"].copied(1, 1, 0.0, 0)
    assert len(list(features.scan())) == 20
    assert len(local) == 4  # values and timestamps of two shards


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no wishes")
def test_evicted_pages_come_when_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = os.urandom(1 << 20)
    file.write_bytes(content)
    descriptor = os.open(file, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    mapped = LocalMapping(file)
    mapped.expect_random()
    before = disk_reads()
    mapped.ask([(0, 4096), (500_000, 1 << 20)])
    assert bytes(mapped.content) == content
    if os.stat(tmp_path).st_dev >> 8 and sys.platform == "linux":  # on a block device, so that evicting is possible
        assert disk_reads() - before >= (1 << 20) // 512
        before = disk_reads()
        assert bytes(mapped.content) == content
        assert disk_reads() == before


def test_a_string_is_no_list_of_clips(tmp_path: Path) -> None:
    write(tmp_path, clips(3))
    with pytest.raises(UsageError, match=r"write \['clip1'\]"):
        FeatureSet.open(tmp_path).read("clip1")


def test_checksums_are_those_of_the_bytes(tmp_path: Path) -> None:
    content = clips(5)
    write(tmp_path, content)
    features = FeatureSet.open(tmp_path)
    ids = ["clip4", "clip0"]
    assert features.checksums(ids).tolist() == [xxhash.xxh3_64_intdigest(content[i][0].tobytes()) for i in ids]
    expected = [xxhash.xxh3_64_intdigest(content[i][1].tobytes()) for i in ids]
    assert features.checksums(ids, "timestamps").tolist() == expected
