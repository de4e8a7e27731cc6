"""Writers in processes of their own: killed in the middle, and several at once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supportset.store.read.feature_set import FeatureSet
from tests.store.samples import FORMATS, assert_holds, clip, write

ROOT = Path(__file__).resolve().parents[2]


def start(path: Path, shard_format: str, prefix: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.killed_writer", str(path), shard_format, prefix, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("shard_format", FORMATS)
def test_kill_9_loses_nothing_committed(tmp_path: Path, shard_format: str) -> None:
    rng = random.Random(0)
    for attempt in range(2):
        writer = start(tmp_path, shard_format, f"run{attempt}-", 10**6)
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(rng.randrange(3, 12))]
        writer.kill()
        told += [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        seen = FeatureSet.open(tmp_path).clip_ids
        mine = {clip_id for clip_id in seen if clip_id.startswith(f"run{attempt}-")}
        sealed = max(told) + 1
        assert mine >= {f"run{attempt}-{i}" for i in range(sealed)}
        assert len(mine) % 3 == 0
        assert len(mine) <= sealed + 3
        assert_holds(tmp_path, {clip_id: clip(int(clip_id.partition("-")[2])) for clip_id in seen})
    seen = FeatureSet.open(tmp_path).clip_ids
    write(tmp_path, {"after": clip(0)}, shard_format=shard_format)
    assert len(FeatureSet.open(tmp_path)) == len(seen) + 1


def test_concurrent_writers_of_both_formats(tmp_path: Path) -> None:
    writers = [start(tmp_path, FORMATS[i % 2], f"w{i}-", 45) for i in range(3)]
    before = 0
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "card.json").exists():  # a reader at any moment: whole shards, and never fewer
            features = FeatureSet.open(tmp_path)
            for clip_id, values, _ in features.scan():
                assert values.tobytes() == clip(int(clip_id.partition("-")[2]))[0].tobytes()
            assert len(features) >= before
            before = len(features)
        time.sleep(0.05)
    assert [writer.wait() for writer in writers] == [0] * 3
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
    assert_holds(tmp_path, {f"w{i}-{j}": clip(j) for i in range(3) for j in range(45)})
