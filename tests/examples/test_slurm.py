"""The SLURM example, run by bash in an environment as SLURM makes it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.extract.films import write_video
from tests.extract.plugin import ROOT, install

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "examples" / "slurm" / "extract.sbatch"
COUNT = 7


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job; ``srun`` runs its command here, ``scontrol`` writes down what it is told."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in (("srun", 'exec "$@"'), ("scontrol", f'echo "$@" >> {tmp_path}/told')):
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), install(tmp_path / "plugin")]),
        "SUPPORTSET": f"{sys.executable} {ROOT / 'cli.py'}",
        "SLURM_ARRAY_JOB_ID": "4711",
        "SLURM_ARRAY_TASK_MAX": "2",
    }


def start(
    tmp_path: Path, slurm: dict[str, str], part: int, backbone: str = "fake:0", **more: str
) -> subprocess.Popen[str]:
    command = ["bash", str(SCRIPT), "folder", "--data", "films", "--store", "features", "--backbone", backbone]
    return subprocess.Popen(
        [*command, "--fps", "5", "--device", "cpu", "--workers", "1"],
        cwd=tmp_path,
        env=slurm | {"SLURM_ARRAY_TASK_ID": str(part)} | more,
        stderr=subprocess.PIPE,
        text=True,
    )


def stored(tmp_path: Path) -> Counter[str]:
    shards = (tmp_path / "features").glob("films/features/*/shards/[!.]*.parquet")
    return Counter(clip for shard in shards for clip in pq.read_table(shard)["clip_id"].to_pylist())


def test_the_parts_of_an_array_are_the_whole(tmp_path: Path, slurm: dict[str, str]) -> None:
    """The second part is told that its time is up, goes back into the queue, and goes on."""
    (tmp_path / "films").mkdir()
    for i in range(COUNT):
        write_video(tmp_path / "films" / f"{i}.mp4", 20 + i)
    job = start(tmp_path, slurm, 1)
    _, told = job.communicate(timeout=120)
    assert job.returncode == 0, told
    first = stored(tmp_path)
    assert len(first) == (COUNT + 1) // 2

    job = start(tmp_path, slurm, 2, "fake:0.3")
    assert job.stderr is not None
    while "clips of films to do" not in job.stderr.readline():
        assert job.poll() is None
    time.sleep(1)  # the model is loaded; whether a clip is through by then makes no difference
    job.send_signal(signal.SIGUSR1)
    _, told = job.communicate(timeout=120)
    assert job.returncode == 130, told
    assert "the same command resumes" in told
    assert (tmp_path / "told").read_text() == "requeue 4711_2\n"
    assert len(stored(tmp_path)) < COUNT

    job = start(tmp_path, slurm, 2)
    _, told = job.communicate(timeout=120)
    assert job.returncode == 0, told
    assert len(stored(tmp_path)) == COUNT
    assert set(stored(tmp_path).values()) == {1}
    assert (tmp_path / "told").read_text() == "requeue 4711_2\n", "only a job whose time was up is queued again"


def test_a_part_that_there_is_not_is_refused(tmp_path: Path, slurm: dict[str, str]) -> None:
    job = start(tmp_path, slurm, 3)
    _, told = job.communicate(timeout=120)
    assert job.returncode == 2
    assert "'3/2' is not of the form i/n" in told
    assert not (tmp_path / "told").exists()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_script_is_clean() -> None:
    checked = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
