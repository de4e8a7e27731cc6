"""Any history of a feature set reads back as a model in memory says.

Writers (several at once), failures, retries, seals, compactions, prunings, conversions to either format and to
archives, imports and exports, damage and its mending, each of them whole or with a fault at any of its file operations:
killed there, told that the disk is full or forbidden, or suspended while another process does its work. After every
step the set is opened and compared, row by row and bit by bit; sets that were opened earlier must go on to give what
they saw, or say clearly why they cannot; `verify` must tell exactly the damage that was done.

By default some histories that are the same each time, in about 20 seconds. For many others::

    SUPPORTSET_HISTORIES_MINUTES=30 python -m pytest tests/store/test_histories.py

Nothing waits for the disk here: what a killed process wrote the machine still has, and that is what is asked about.
"""

from __future__ import annotations

import errno
import os
import random
import secrets
import shutil
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from supportset.store.errors import SupportsetError
from supportset.store.maintain.compact import compact
from supportset.store.maintain.prune import prune
from supportset.store.maintain.repair import drop_damaged
from supportset.store.maintain.verify import verify
from supportset.store.read import index_cache
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from supportset.store.transfer.exporting import export_features
from supportset.store.write.writer import FeatureWriter
from tests.store.history import CLIPS, Fault, History, Open, Reader
from tests.store.on_disk import OnDisk, Row

pytestmark = pytest.mark.slow

clip_ids = st.sampled_from(CLIPS)
seeds = st.integers(0, 20)
forms = st.sampled_from([("zarr", "none"), ("hdf5", "none"), ("zarr", "zstd:1"), ("hdf5", "gzip:1")])
numbers = st.integers(0, 1000)  # choose among what is there
kinds = st.sampled_from(["kill", errno.ENOSPC, errno.EACCES, "compact", "zarr", "hdf5", "write"])
# Operations after which all is different; found more often by their names than by their numbers.
points = st.tuples(st.sampled_from(["open", "rename", "unlink", "rmtree"]), st.integers(0, 6))
faults = st.none() | st.tuples(kinds, points | st.integers(0, 70))


class Histories(RuleBasedStateMachine):
    """What there is to do, in any order."""

    @initialize(dtype=st.sampled_from(["float16", "float32"]), form=forms, seed=numbers)
    def begin(self, dtype: str, form: tuple[str, str], seed: int) -> None:
        ids = random.Random(seed)  # a history that is told again must have the same ids, of which some decide
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(secrets, "token_hex", lambda size: ids.randbytes(size).hex())
        self.patch.setattr(secrets, "randbelow", ids.randrange)
        self.at = History(dtype, form[0])

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.at.root)

    @precondition(lambda self: len(self.at.writers) < 3)
    @rule(form=forms, clips_per_shard=st.sampled_from([1, 2, 3, 500]))
    def open_writer(self, form: tuple[str, str], clips_per_shard: int) -> None:
        writer = FeatureWriter(self.at.path, self.at.card, shard_format=form[0], clips_per_shard=clips_per_shard)
        self.at.writers.append(Open(writer, [], set(), {}))

    @precondition(lambda self: self.at.writers)
    @rule(which=numbers, clip_id=clip_ids, seed=seeds, fault=faults)
    def add(self, which: int, clip_id: str, seed: int, fault: Fault) -> None:
        one = chosen(self.at.writers, which)
        features = self.at.make(seed)
        if row := self._next_row(one, clip_id, "ok", self.at.checksums(*features)):
            self.at.let_write(one, lambda: one.writer.add(clip_id, *features, message=row.message), fault)

    @precondition(lambda self: self.at.writers)
    @rule(which=numbers, clip_id=clip_ids, status=st.sampled_from(["missing", "unreadable"]), fault=faults)
    def fail(self, which: int, clip_id: str, status: str, fault: Fault) -> None:
        one = chosen(self.at.writers, which)
        if row := self._next_row(one, clip_id, status, None):
            self.at.let_write(one, lambda: one.writer.fail(clip_id, status, row.message), fault)

    @rule(
        form=forms,
        clips_per_shard=st.sampled_from([1, 2, 500]),
        wanted=st.dictionaries(clip_ids, seeds | st.none(), min_size=1),
        fault=faults,
    )
    def write(self, form: tuple[str, str], clips_per_shard: int, wanted: dict[str, int | None], fault: Fault) -> None:
        """What a run does: None instead of a seed is a failure."""
        one = Open(
            FeatureWriter(self.at.path, self.at.card, shard_format=form[0], clips_per_shard=clips_per_shard),
            [],
            set(),
            {},
        )
        rows = []
        for clip_id, seed in wanted.items():
            features = None if seed is None else self.at.make(seed)
            both = features and self.at.checksums(*features)
            rows.append((clip_id, features, self._next_row(one, clip_id, "missing" if seed is None else "ok", both)))

        def run() -> None:
            with one.writer as writer:
                for clip_id, features, row in rows:
                    if features is None:
                        writer.fail(clip_id, row.status, row.message)
                    else:
                        writer.add(clip_id, *features, message=row.message)

        done, extra = self.at.perform(run, fault)
        if done:
            self.at.settle([*extra, *one.pending])
        else:
            self.at.settle(extra, one.pending, together=False)

    def _next_row(self, one: Open, clip_id: str, status: str, both: tuple[int, int] | None) -> Row | None:
        if clip_id in one.added:
            return None
        if not one.known:  # a writer looks once, when it has its first row
            disk = OnDisk(self.at.path)
            one.known.update({each: disk.next_generation(each) for each in CLIPS})
        self.at.count += 1
        one.added.add(clip_id)
        one.pending.append(Row(clip_id, status, one.known[clip_id], f"row {self.at.count}", both))
        return one.pending[-1]

    @precondition(lambda self: any(one.pending for one in self.at.writers))
    @rule(which=numbers, fault=faults)
    def seal(self, which: int, fault: Fault) -> None:
        one = chosen([one for one in self.at.writers if one.pending], which)
        self.at.let_write(one, one.writer.seal, fault)

    @precondition(lambda self: self.at.writers)
    @rule(which=numbers)
    def kill_a_writer(self, which: int) -> None:
        self.at.writers.remove(chosen(self.at.writers, which))

    @rule(clips_per_shard=st.sampled_from([1, 2, 4, 1000]), fault=faults)
    def compact(self, clips_per_shard: int, fault: Fault) -> None:
        _, extra = self.at.perform(lambda: compact(self.at.path, clips_per_shard=clips_per_shard, safe_age=0.0), fault)
        self.at.settle(extra)
        if fault is None and not self.at.damage:
            assert OnDisk(self.at.path).orphan() == set()

    @rule(form=forms, keep_old=st.booleans(), fault=faults)
    def convert(self, form: tuple[str, str], keep_old: bool, fault: Fault) -> None:
        to, compress = form
        _, extra = self.at.perform(
            lambda: convert_feature_set(self.at.path, to, compress=compress, keep_old=keep_old), fault
        )
        self.at.settle(extra)
        if fault is None and not self.at.damage:
            disk = OnDisk(self.at.path)
            indexes = [disk.indexes[shard] for shard in disk.rows if disk.indexes[shard]["files"]]
            assert {(index["shard_format"], index["arrays"] != {}) for index in indexes} <= {(to, compress == "none")}

    @precondition(lambda self: not self.at.active_damage())
    @rule(wanted=st.dictionaries(clip_ids, seeds, min_size=1, max_size=3), fault=faults)
    def import_clips(self, wanted: dict[str, int], fault: Fault) -> None:
        disk = OnDisk(self.at.path)
        new = [
            Row(clip_id, "ok", disk.next_generation(clip_id), "", both)
            for clip_id, seed in wanted.items()
            if (both := self.at.checksums(*self.at.make(seed)))
            != (self.at.rows[clip_id].checksums if clip_id in self.at.rows else None)
        ]
        done, extra = self.at.perform(lambda: self.at.import_clips(wanted), fault)
        if done and not extra:
            self.at.settle(new)
        else:
            self.at.settle(extra, new)

    @precondition(lambda self: not self.at.active_damage() and any(row.checksums for row in self.at.rows.values()))
    @rule()
    def export(self) -> None:
        self.at.count += 1
        out, times = (self.at.root / f"{part}{self.at.count}" for part in ("out", "times"))
        export_features(FeatureSet.open(self.at.path), out, "npy", timestamps=times)
        for clip_id, row in self.at.rows.items():
            files = [folder / f"{clip_id}.npy" for folder in (out, times)]
            assert [file.exists() for file in files] == [row.checksums is not None] * 2
            if row.checksums:
                assert tuple(np.load(file).tobytes() for file in files) == self.at.features[row.checksums]

    @rule(check=st.booleans())
    def open_reader(self, check: bool) -> None:
        del self.at.readers[:-2]  # the eldest
        features = FeatureSet.open(self.at.path, check=check)
        self.at.readers.append(Reader(features, dict(self.at.rows), self.at.clips_near_damage()))

    @precondition(lambda self: self.at.readers)
    @rule(which=numbers, wanted=st.sets(clip_ids, min_size=1))
    def read_on(self, which: int, wanted: set[str]) -> None:
        reader = chosen(self.at.readers, which)
        for clip_id in sorted(wanted):
            row = reader.saw.get(clip_id)
            if clip_id not in reader.hurt or reader.features.check:
                same = row is not None and row.checksums is not None and self.at.rows.get(clip_id) == row
                self.at.assert_reads(reader.features, clip_id, row, may_fail=not same or clip_id in reader.hurt)

    @precondition(lambda self: len(self.at.active_damage()) < 2)
    @rule(which=numbers, kind=st.sampled_from(["content", "size", "missing_file"]), where=st.floats(0, 1))
    def harm_a_file(self, which: int, kind: str, where: float) -> None:
        whole = sorted(file for file in OnDisk(self.at.path).files() if file not in self.at.damage)
        if not whole:
            return
        file = chosen(whole, which)
        content = file.read_bytes()
        at = min(int(where * len(content)), len(content) - 1)
        self.at.damage[file] = kind, content
        if kind == "missing_file":
            file.unlink()
        elif kind == "content":  # in place, as a disk does it: who has mapped the file sees it
            with file.open("r+b") as damaged:
                damaged.seek(at)
                damaged.write(bytes([content[at] ^ 1 << which % 8]))
        else:  # what is mapped stays as it was: reading on behind its end would kill this process
            replace(file, content[:at])
        for reader in self.at.readers:
            reader.hurt.update(self.at.clips_near_damage())

    @precondition(lambda self: self.at.active_damage())
    @rule(which=numbers)
    def restore_a_file(self, which: int) -> None:
        file = chosen(sorted(self.at.active_damage()), which)
        replace(file, self.at.damage.pop(file)[1])

    @precondition(lambda self: self.at.active_damage())
    @rule(fault=faults)
    def drop_what_is_damaged(self, fault: Fault) -> None:
        disk = OnDisk(self.at.path)
        shards = {disk.files()[file] for file in self.at.active_damage()}
        lost = {
            clip_id
            for shard in shards
            for clip_id in disk.damaged_clips(shard, self.at.features)
            if disk.shard_of[clip_id] == shard
        }
        told: list[str] = []
        done, extra = self.at.perform(lambda: told.extend(drop_damaged(self.at.path, shards)), fault)
        now = OnDisk(self.at.path).effective
        for clip_id in lost - now.keys():
            del self.at.rows[clip_id]
        self.at.settle(extra)
        if fault is None or (fault[0] in (errno.ENOSPC, errno.EACCES) and done):
            assert told == sorted(lost)
            assert not lost & now.keys()
            assert not self.at.active_damage()

    @rule(wanted=st.sets(clip_ids, min_size=1), fault=faults)
    def prune(self, wanted: set[str], fault: Fault) -> None:
        held = {clip_id for clip_id in wanted if clip_id in self.at.rows and self.at.rows[clip_id].checksums}
        told: list[str] = []
        done, extra = self.at.perform(lambda: told.extend(prune(self.at.path, wanted).clips), fault)
        there = OnDisk(self.at.path).all_rows()
        pruned = {clip_id for clip_id in held if self.at.rows[clip_id] not in there}
        for clip_id in pruned:
            del self.at.rows[clip_id]
        self.at.settle(extra)
        if done and not self.at.damage:
            assert pruned == held
            assert told == sorted(held - {row.clip_id for row in extra})

    @precondition(lambda self: self.at.rows)
    @rule(which=numbers, where=st.floats(0, 1), cut=st.booleans())
    def harm_an_index_for_a_while(self, which: int, where: float, cut: bool) -> None:
        file = chosen(sorted((self.at.path / "shards").glob("*.parquet")), which)
        content = file.read_bytes()
        at = min(int(where * len(content)), len(content) - 1)
        told = ""
        file.write_bytes(content[:at] + (b"" if cut else bytes([content[at] ^ 1 << which % 8]) + content[at + 1 :]))
        try:
            FeatureSet.open(self.at.path)
        except SupportsetError as error:
            told = str(error)
        found = [problem for problem in verify(self.at.path).harmful if problem.path == str(file)]
        file.write_bytes(content)
        assert not told or (str(file) in told and "\n" not in told)
        assert bool(told) <= bool(found)

    @invariant()
    def reads_back_as_the_model_says(self) -> None:
        self.at.assert_holds(FeatureSet.open(self.at.path))
        self.at.assert_verified()


def chosen(among: list[Any], which: int) -> Any:
    return among[which % len(among)]


def replace(file: Any, content: bytes) -> None:
    """Put another file in the place of one."""
    file.parent.mkdir(exist_ok=True, parents=True)
    other = file.with_name("other")
    other.write_bytes(content)
    other.rename(file)


PROFILE = settings(
    max_examples=18,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(index_cache, "SHARDS_WORTH_IT", 1)  # the cache is made for every set, not for large ones only


@pytest.mark.timeout(1200)
def test_any_history_reads_as_a_model_in_memory() -> None:
    run_state_machine_as_test(Histories, settings=PROFILE)


@pytest.mark.timeout(0)
@pytest.mark.skipif("SUPPORTSET_HISTORIES_MINUTES" not in os.environ, reason="long: see the head of this file")
def test_many_histories() -> None:
    end = time.monotonic() + 60 * float(os.environ["SUPPORTSET_HISTORIES_MINUTES"])
    long = settings(PROFILE, derandomize=False, max_examples=50, stateful_step_count=40)
    while time.monotonic() < end:
        run_state_machine_as_test(Histories, settings=long)
