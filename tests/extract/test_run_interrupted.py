"""Runs that are killed or stopped go on where they were."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supportset.extract.decode.sampling import Sampling
from supportset.extract.progress.summary import Summary
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import MeanColour, dataset_of, expected_features
from tests.extract.films import write_video
from tests.extract.fragile import Slow
from tests.extract.runs import extract_with

pytestmark = pytest.mark.slow

COUNT = 12
CODE = """
import sys
from pathlib import Path
from tests.extract.runs import extract_with
from supportset.extract.decode.sampling import Sampling
from supportset.store.format.dataset import open_dataset
from supportset.store.errors import SupportsetError
from tests.extract.fakes import MeanColour
from tests.extract.fragile import Slow


class Told(MeanColour):
    def forward(self, frames):
        print(len(frames), flush=True)
        return super().forward(frames)


root, per_shard = Path(sys.argv[1]), int(sys.argv[2])
try:
    extract_with(
        open_dataset(root / "features", "films"), root / "features", root / "videos", Told(transform=Slow()),
        Sampling(fps=5.0), workers=2, batch_size=2, device="cpu", dtype="float32", clips_per_shard=per_shard,
    )
except SupportsetError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for i in range(COUNT):
        write_video(folder / f"{i:02}.mp4", 20 + i)
    return folder


@pytest.fixture
def films(tmp_path: Path, made: Path) -> dict[str, str | None]:
    shutil.copytree(made, tmp_path / "videos")
    paths: dict[str, str | None] = {f"c{i:02}": f"{i:02}.mp4" for i in range(COUNT)}
    dataset_of(tmp_path / "features", paths)
    return paths


def start(tmp_path: Path, per_shard: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path), str(per_shard)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the run ended too early for this test"
        assert time.monotonic() < until
        time.sleep(0.02)


def shards(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "features").glob("films/features/*/shards/[!.]*.parquet"))


def finish(tmp_path: Path, films: Any, backbone: MeanColour | None = None) -> Summary:
    return extract_with(
        dataset_of(tmp_path / "features", films),
        tmp_path / "features",
        tmp_path / "videos",
        backbone or MeanColour(transform=Slow(seconds=0.0)),
        Sampling(fps=5.0),
        workers=1,
        device="cpu",
        dtype="float32",
        progress=False,
    )


def check(tmp_path: Path, films: dict[str, str | None], summary: Summary) -> None:
    assert summary.status == {"ok": COUNT}
    stored = FeatureSet.open(summary.path)
    assert set(stored.clip_ids) == set(films)
    for clip in ("c00", f"c{COUNT // 2:02}", f"c{COUNT - 1:02}"):
        values, times = expected_features(tmp_path / "videos" / str(films[clip]), Sampling(fps=5.0))
        np.testing.assert_allclose(stored.read([clip])[0], values, rtol=1e-6)
        np.testing.assert_allclose(stored.read_timestamps([clip]), times)


def test_killed_run_goes_on(tmp_path: Path, films: dict[str, str | None]) -> None:
    process = start(tmp_path, per_shard=2)
    wait_for(lambda: len(shards(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    committed = shards(tmp_path)
    before = FeatureSet.open(committed[0].parents[1])
    done = {row["clip_id"]: row["shard"] for row in before.rows().to_pylist()}
    assert 4 <= len(done) < COUNT
    backbone = MeanColour(transform=Slow(seconds=0.0))
    summary = finish(tmp_path, films, backbone)
    check(tmp_path, films, summary)
    after = {row["clip_id"]: row for row in FeatureSet.open(summary.path).rows().to_pylist()}
    assert {clip: after[clip]["shard"] for clip in done} == done
    assert sum(backbone.batches) == sum(after[clip]["length"] for clip in films if clip not in done)
    assert {row["generation"] for row in after.values()} == {0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_seals_what_is_complete(
    tmp_path: Path, films: dict[str, str | None], number: signal.Signals
) -> None:
    process = start(tmp_path, per_shard=500)
    assert process.stdout is not None
    for _ in range(12):  # batches of two steps; clips have four or five
        process.stdout.readline()
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command resumes" in told.splitlines()[-1]
    assert "Traceback" not in told
    (committed,) = shards(tmp_path)
    done = len(FeatureSet.open(committed.parents[1]))
    assert 0 < done < COUNT
    assert f"stopped: of {COUNT} clips the store has {done} ok" in told
    check(tmp_path, films, finish(tmp_path, films))
