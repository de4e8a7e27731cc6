"""A run killed ten times at random moments, and started again each time, ends as one that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from supportset.extract.progress.summary import count_statuses
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import dataset_of
from tests.extract.films import write_video

pytestmark = pytest.mark.slow

KILLS, FILMS, SEED = 10, 40, 4
# Imports once, then forks a process for each run: starting Python ten times would take longer than all the rest.
SERVER = """
import os, sys
from pathlib import Path
import supportset.store.format.shards.zarr
from supportset.extract.decode.sampling import Sampling
from supportset.store.format.dataset import open_dataset
from tests.extract.fakes import MeanColour
from tests.extract.runs import extract_with
from tests.extract.fragile import Slow


class Told(MeanColour):
    def forward(self, frames):
        os.write(1, b"batch\\n")
        return super().forward(frames)


def run(root):
    summary = extract_with(
        open_dataset(root / "features", "films"), root / "features", root / "videos",
        Told(transform=Slow(seconds=0.002)),
        Sampling(fps=5.0), workers=2, batch_size=2, device="cpu", dtype="float32", clips_per_shard=2, progress=False,
    )
    os.write(1, f"done {summary.path}\\n".encode())


for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        try:
            run(Path(line.strip()))
            code = 0
        finally:
            os._exit(code)
    os.write(1, f"child {child}\\n".encode())
    os.write(1, f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\\n".encode())
"""


class Server:
    """The process that runs are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def lines(self) -> Iterator[str]:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            yield line.decode().strip()
        raise AssertionError("the server is gone")

    def start(self, root: Path) -> int:
        """Begin a run; returns its process."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{root}\n".encode())
        return int(next(line for line in self.lines() if line.startswith("child")).split()[1])

    def first_batch(self) -> None:
        """Wait until a run computes."""
        for line in self.lines():
            assert line == "batch", f"the run ended too early for this test: {line}"
            return

    def end(self) -> tuple[int, str]:
        """Wait for the end of a run: its exit code, and the feature set's path if it went through."""
        path = ""
        for line in self.lines():
            if line.startswith("done"):
                path = line.removeprefix("done ")
            if line.startswith("ended"):
                return int(line.split()[1]), path
        raise AssertionError

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Forty films, two of them bad, one clip whose file is not there, and a store for each of two runs."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(FILMS):
        write_video(videos / f"{i}.mp4", 25 + i % 7)
    (videos / "7.mp4").write_text("words")
    cut = write_video(videos / "cut.mkv", 75, size=(160, 120))
    os.truncate(cut, cut.stat().st_size // 2)
    paths: dict[str, str | None] = {f"c{i:02}": f"{i}.mp4" for i in range(FILMS)}
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "videos").symlink_to(videos)
        dataset_of(tmp_path / name / "features", paths | {"cut": "cut.mkv", "gone": "gone.mp4"}, c20=(0.2, 0.7))
    return tmp_path


def state(path: str | Path) -> dict[str, Any]:
    """All that a reader sees of each clip."""
    stored = FeatureSet.open(path)
    seen: dict[str, Any] = {}
    for row in stored.rows().to_pylist():
        assert row["clip_id"] not in seen, "a clip twice"
        seen[row["clip_id"]] = (row["status"], row["message"], row["length"], row["generation"], row["source_hash"])
    assert len(stored.clip_ids) == len(set(stored.clip_ids))
    for clip_id in stored.clip_ids:
        values, times = stored.read([clip_id])[0], stored.read_timestamps([clip_id])
        seen[clip_id] += (values.tobytes(), times.tobytes())
        assert np.isfinite(values).all()
    return seen


def shards(path: Path) -> int:
    return len(list(path.glob("shards/[!.]*.parquet")))


def test_ten_kills_change_nothing(server: Server, place: Path) -> None:
    server.start(place / "undisturbed")
    server.first_batch()
    since = time.monotonic()
    code, path = server.end()
    assert code == 0
    a_shard = (time.monotonic() - since) / shards(Path(path))  # seconds, on this machine as busy as it is
    expected = state(path)
    counts = count_statuses(FeatureSet.open(path).rows())
    assert counts == {"ok": FILMS - 1, "damaged": 1, "missing": 1, "unreadable": 1}

    chance = random.Random(SEED)
    killed = place / "killed"
    path = killed / "features" / "films" / "features" / Path(path).name
    progress = []
    for _ in range(KILLS):
        child = server.start(killed)
        server.first_batch()
        wanted = shards(path) + chance.randint(0, 2)
        while shards(path) < wanted:
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 1.0) * a_shard)
        os.kill(child, signal.SIGKILL)
        assert server.end() == (-signal.SIGKILL, ""), "the run ended too early for this test"
        seen = state(path)
        assert all(expected[clip_id] == what for clip_id, what in seen.items()), "a reader sees only what is right"
        progress.append(len(seen))
    assert progress == sorted(progress), "what was committed stays"
    assert len(expected) > progress[-1] > progress[0]

    server.start(killed)
    assert server.end() == (0, str(path))
    assert state(path) == expected
    indexes = [pq.read_table(file, columns=["clip_id"]) for file in path.glob("shards/[!.]*.parquet")]
    assert sum(map(len, indexes)) == len(expected), "no sealed clip was done again"
    report = verify(path)
    assert not report.harmful
    assert {problem.kind for problem in report.problems} <= {"orphan", "temporary"}
