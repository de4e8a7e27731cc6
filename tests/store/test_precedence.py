"""One clip, several rows: every reader and writer applies the same rule."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from supportset.store.files import LocalFolder
from supportset.store.format.index import ShardIndex, effective, index_name, read_all, read_index, write_index
from supportset.store.format.status import DAMAGED, OK, WITH_FEATURES
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import FORMATS, assert_holds, card, clip, clips, recipe, write


def fail(path: Path, clip_id: str, status: str = "unreadable") -> None:
    with FeatureWriter(path, card()) as writer:
        writer.fail(clip_id, status, "")


def row(path: Path, clip_id: str) -> dict[str, object]:
    (found,) = [row for row in FeatureSet.open(path).rows().to_pylist() if row["clip_id"] == clip_id]
    return found


def test_retry_counts_generations_and_the_last_failure_is_told(tmp_path: Path) -> None:
    fail(tmp_path, "a", "missing")
    fail(tmp_path, "a", "unreadable")
    assert (row(tmp_path, "a")["status"], row(tmp_path, "a")["generation"]) == ("unreadable", 1)
    write(tmp_path, {"a": clip(1)})
    assert (row(tmp_path, "a")["status"], row(tmp_path, "a")["generation"]) == ("ok", 2)
    assert FeatureSet.open(tmp_path).statuses() == {"ok": 1}


@pytest.mark.parametrize("shard_format", FORMATS)
def test_later_extraction_replaces_an_earlier_one(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(5))
    write(tmp_path, {"clip2": clip(99)}, shard_format=shard_format)
    assert_holds(tmp_path, {**clips(5), "clip2": clip(99)})


def test_ok_beats_a_later_failure(tmp_path: Path) -> None:
    write(tmp_path, {"a": clip(1)})
    fail(tmp_path, "a")
    assert_holds(tmp_path, {"a": clip(1)})
    assert row(tmp_path, "a")["generation"] == 0


def test_equal_generations_are_decided_by_the_shard_id(tmp_path: Path) -> None:
    # Two writers that began at the same time: both have looked for earlier rows before either commits.
    writers = [FeatureWriter(tmp_path, card()) for _ in range(2)]
    for seed, writer in enumerate(writers):
        writer.add("a", *clip(seed))
    for writer in writers:
        writer.seal()
    indexes, tables = read_all(LocalFolder(tmp_path / "shards"))
    assert [table["generation"].to_pylist() for table in tables] == [[0], [0]]
    last = max(indexes, key=lambda index: index.shard)
    assert row(tmp_path, "a")["shard"] == last.shard


def naive(rows: list[tuple[str, str, int, int]]) -> set[tuple[str, str, int, int]]:
    """The rule, said plainly."""
    best: dict[str, tuple[str, str, int, int]] = {}
    for clip_id, status, generation, shard in rows:
        there = best.get(clip_id)
        key = (status in WITH_FEATURES, generation, shard)
        if there is None or key > (there[1] in WITH_FEATURES, there[2], there[3]):
            best[clip_id] = (clip_id, status, generation, shard)
    return set(best.values())


@pytest.mark.parametrize("seed", range(20))
def test_rule_against_a_naive_one(seed: int) -> None:
    rng = random.Random(seed)
    rows = sorted(
        {
            (f"c{rng.randrange(6)}", shard): (rng.choice([OK, DAMAGED, "missing"]), rng.randrange(3))
            for shard in range(6)
            for _ in range(rng.randrange(5))
        }.items(),
        key=lambda item: item[0][1],
    )
    flat = [(clip_id, status, generation, shard) for (clip_id, shard), (status, generation) in rows]
    columns = {"clip_id": [row[0] for row in flat], "generation": [row[2] for row in flat]}
    table = pa.table(columns | {"length": [int(row[1] in WITH_FEATURES) for row in flat]})
    if flat:
        chosen = effective(table, np.array([row[3] for row in flat]))
        assert sorted(flat[i] for i in chosen) == sorted(naive(flat))


def test_shard_that_another_replaces_does_not_count(tmp_path: Path) -> None:
    fail(tmp_path, "a")
    write(tmp_path, {"b": clip(2)})
    folder = LocalFolder(tmp_path / "shards")
    old = {index.shard for index in read_all(folder)[0]}
    write(tmp_path, {"c": clip(3)})
    ((new,),) = [[index for index in read_all(folder)[0] if index.shard not in old]]
    _, rows = read_index(folder, new.shard)
    replacing = ShardIndex(new.shard, new.shard_format, recipe().hash, new.files, new.arrays, tuple(sorted(old)))
    write_index(folder, replacing, rows)
    assert FeatureSet.open(tmp_path).statuses() == {"ok": 1}
    assert_holds(tmp_path, {"c": clip(3)})
    for shard in old:  # and when they are removed, nothing changes
        folder.remove(index_name(shard))
    assert_holds(tmp_path, {"c": clip(3)})
