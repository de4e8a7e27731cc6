"""A feature set, what a model in memory says of it, and how both are compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from supportset.store.errors import SupportsetError
from supportset.store.format.card import FeatureCard
from supportset.store.maintain.compact import compact
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from supportset.store.transfer.import_card import ImportOptions
from supportset.store.transfer.importing import import_features
from supportset.store.transfer.opening import open_source
from supportset.store.write.writer import FeatureWriter
from tests.store.faults import FaultyDisk, Killed
from tests.store.on_disk import Bytes, OnDisk, Row, checksums

DIM = 3
CLIPS = [f"clip{number}" for number in range(4)]

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Fault = tuple[int | str, int | tuple[str, int]] | None  # kind, as `perform` knows it, and operation, as FaultyDisk does


class Open(NamedTuple):
    """A writer, the rows that it has not committed, and the generations that it knows of."""

    writer: FeatureWriter
    pending: list[Row]
    added: set[str]
    known: dict[str, int]


class Reader(NamedTuple):
    """An open set, what it saw, and the clips of which damage may keep it."""

    features: FeatureSet
    saw: dict[str, Row]
    hurt: set[str]


class History:
    """A feature set and the model of it.

    Parameters
    ----------
    dtype : of the values
    shard_format : of imports

    Attributes
    ----------
    rows : of each clip, the row that must count
    features : bytes by their checksums
    damage : what kind, and what the file was, of each damaged file
    """

    def __init__(self, dtype: str, shard_format: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="histories-"))
        self.dtype = np.dtype(dtype)
        self.options = ImportOptions("net", dim=DIM, dtype=dtype, replace=True, shard_format=shard_format)
        self.features: dict[tuple[int, int], Bytes] = {}
        self.writers: list[Open] = []
        self.readers: list[Reader] = []
        self.damage: dict[Path, tuple[str, bytes]] = {}
        self.count = 0
        self.path = self.import_clips({"clip0": 0})
        self.card = FeatureCard.load(self.path)
        self.rows = OnDisk(self.path).effective

    # What is done to the set

    def perform(self, work: Callable[[], object], fault: Fault) -> tuple[bool, list[Row]]:
        """Do something, with a fault at one of its operations.

        Parameters
        ----------
        work : to do
        fault : and at which of its operations: ``kill``, an errno, or what another process does at that moment:
            ``compact`` (as if hours had gone by), ``zarr`` or ``hdf5`` (a conversion), ``write``

        Returns
        -------
        whether it went through, and the rows that another process has added meanwhile
        """
        if fault is None:
            work()
            return True, []
        extra: list[Row] = []
        kind, at = fault
        meanwhile: dict[int | str, Callable[[], object]] = {
            "compact": lambda: compact(self.path, safe_age=0.0),
            "zarr": lambda: convert_feature_set(self.path, "zarr"),
            "hdf5": lambda: convert_feature_set(self.path, "hdf5", compress="gzip:1"),
            "write": lambda: extra.append(self._write_one()),
        }
        told = ""
        with pytest.MonkeyPatch.context() as patch:
            disk = FaultyDisk(patch, at, meanwhile.get(kind, kind))
            try:
                work()
            except Killed:
                return False, extra
            except SupportsetError as error:
                if not disk.struck:
                    raise
                told = str(error)
        assert "\n" not in told
        return not told, extra

    def let_write(self, one: Open, work: Callable[[], object], fault: Fault) -> None:
        """Let a writer do something that may seal its shard."""
        done, extra = self.perform(work, fault)
        if sealed := done and not len(one.writer._pending):
            self.settle([*extra, *one.pending])
            one.pending.clear()
        else:
            self.settle(extra, one.pending)
        if fault and fault[0] == "kill" and not done:
            self.writers.remove(one)
        assert sealed or not done or len(one.writer._pending) == len(one.pending)

    def settle(self, committed: Iterable[Row], perhaps: Iterable[Row] = (), *, together: bool = True) -> None:
        """Take note of rows that were committed, and of those that may have been: all of these or none, if together."""
        disk = OnDisk(self.path)
        there = disk.all_rows()
        sure, perhaps = list(committed), list(perhaps)
        seen = [row for row in perhaps if row in there]
        sure += perhaps if seen and together else seen
        for clip_id in {row.clip_id for row in sure}:
            possible = [row for row in sure if row.clip_id == clip_id]
            possible += [self.rows[clip_id]] if clip_id in self.rows else []
            best = max(row.rank for row in possible)
            now = disk.effective[clip_id]
            assert now in [row for row in possible if row.rank == best]  # between equals, ids decide
            self.rows[clip_id] = now

    def import_clips(self, wanted: dict[str, int]) -> Path:
        """Import clips by their seeds; the set's folder."""
        self.count += 1
        folders = [self.root / f"{part}{self.count}" for part in ("in", "in-times")]
        for folder in folders:
            folder.mkdir()
        for clip_id, seed in wanted.items():
            for folder, array in zip(folders, self.make(seed), strict=True):
                np.save(folder / f"{clip_id}.npy", array)
        sources = [open_source(folder) for folder in folders]
        return Path(str(import_features(self.root / "store", "d", sources[0], self.options, times=sources[1]).path))

    def make(self, seed: int) -> Arrays:
        """A clip's features; zeros for the seed 0."""
        rng = np.random.default_rng(seed)
        steps = int(rng.integers(1, 5))
        values = (rng.standard_normal((steps, DIM)) * rng.choice([1e-7, 1.0, 1e4])).astype(self.dtype)
        values[rng.random((steps, DIM)) < 0.2] = -0.0
        timestamps = np.sort(rng.random((steps, 2)) * 100, axis=1)
        if seed == 0:
            values, timestamps = np.zeros_like(values), np.zeros_like(timestamps)
        self.checksums(values, timestamps)
        return values, timestamps

    def checksums(self, values: np.ndarray[Any, Any], timestamps: np.ndarray[Any, Any]) -> tuple[int, int]:
        """Of a clip's features, which are remembered by them."""
        both = checksums(features := (values.tobytes(), timestamps.tobytes()))
        self.features[both] = features
        return both

    def _write_one(self) -> Row:
        self.count += 1
        clip_id, (values, timestamps) = CLIPS[self.count % len(CLIPS)], self.make(self.count)
        generation, message = OnDisk(self.path).next_generation(clip_id), f"row {self.count}"
        with FeatureWriter(self.path, self.card) as writer:
            writer.add(clip_id, values, timestamps, message=message)
        return Row(clip_id, "ok", generation, message, self.checksums(values, timestamps))

    # What must be true of it

    def assert_holds(self, features: FeatureSet) -> None:
        """An open set gives what the model says."""
        self._assert_rows(features)
        hurt = self.clips_near_damage()
        ids = [clip_id for clip_id, row in self.rows.items() if row.checksums and clip_id not in hurt]
        wanted = [self._wanted(self.rows[clip_id]) for clip_id in ids]
        assert features.read(ids)[0].tobytes() == b"".join(values for values, _ in wanted)
        assert features.read_timestamps(ids).tobytes() == b"".join(times for _, times in wanted)
        checking = FeatureSet.open(self.path, check=True) if hurt else features
        for clip_id in hurt & self.rows.keys():  # what is not damaged itself is read or refused
            self.assert_reads(checking, clip_id, self.rows[clip_id], may_fail=True)

    def assert_reads(self, features: FeatureSet, clip_id: str, row: Row | None, *, may_fail: bool) -> None:
        """An open set gives a clip's features, or, where that may be, one line that says why not."""
        told = ""
        try:
            read = features.read([clip_id])[0].tobytes(), features.read_timestamps([clip_id]).tobytes()
        except SupportsetError as error:
            if not may_fail:
                raise
            told = str(error)
        assert "\n" not in told
        assert told or (row is not None and read == self._wanted(row))

    def assert_verified(self) -> None:
        """`verify` tells the damage that was done, with the clips that have it, and nothing else."""
        disk = OnDisk(self.path)
        files = disk.files()
        report = verify(self.path)
        told = {(problem.kind, problem.path): set(problem.clips) for problem in report.harmful}
        assert told == {
            (kind, str(file)): disk.damaged_clips(files[file], self.features)
            for file, kind in self.active_damage().items()
        }
        assert {(problem.kind, problem.path) for problem in report.problems if problem.harmless} == disk.orphan()

    def active_damage(self) -> dict[Path, str]:
        """Kind by file, of damaged files that readers look at."""
        files = OnDisk(self.path).files() if self.damage else {}
        return {file: kind for file, (kind, _) in self.damage.items() if file in files}

    def clips_near_damage(self) -> set[str]:
        """Clips whose shard has a damaged file."""
        if not self.damage:
            return set()
        disk = OnDisk(self.path)
        shards = {disk.files()[file] for file in self.active_damage()}
        return {clip_id for clip_id, shard in disk.shard_of.items() if shard in shards}

    def _assert_rows(self, features: FeatureSet) -> None:
        disk = OnDisk(self.path)
        assert disk.effective == self.rows
        columns = ("clip_id", "status", "generation", "message", "shard")
        told = {tuple(row[name] for name in columns) for row in features.rows().to_pylist()}
        assert told == {(*row[:4], disk.shard_of[row.clip_id]) for row in self.rows.values()}

    def _wanted(self, row: Row) -> Bytes | None:
        return self.features[row.checksums] if row.checksums else None
