"""Decode workers: the same frames as without them, and what kills one costs one clip."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.workers.decode_worker import ClipResult, Job, Setup
from supportset.extract.workers.pool import DecodePool, StepFrames
from supportset.store.errors import SupportsetError
from supportset.store.files import hash_file
from tests.extract.films import write_video
from tests.extract.fragile import Fragile, Shrink, Unloadable

pytestmark = pytest.mark.slow

Decoded = tuple[dict[int, list[tuple[np.ndarray, float, float]]], dict[int, ClipResult]]


def setup(transform: Callable[[np.ndarray], np.ndarray], sampling: Sampling | None = None, slots: int = 4) -> Setup:
    sampling = sampling or Sampling(fps=5.0)
    return Setup(sampling, transform, (sampling.window, 8, 8, 3), slots)


def decode(pool: DecodePool, paths: list[Path]) -> Decoded:
    steps: dict[int, list[tuple[np.ndarray, float, float]]] = {}
    ends: dict[int, ClipResult] = {}
    for event in pool.run(Job(number, str(path)) for number, path in enumerate(paths)):
        if isinstance(event, StepFrames):
            assert event.number not in ends
            steps.setdefault(event.number, []).append((event.frames.copy(), event.start_s, event.end_s))
        else:
            assert event.number not in ends
            ends[event.number] = event
    return steps, ends


def red(path: Path) -> Path:
    Image.new("RGB", (32, 32), (255, 0, 0)).save(path)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    return [write_video(folder / f"{i}.mp4", 20 + 10 * i, size=(64 + 16 * i, 48)) for i in range(5)]


def test_frames_are_those_of_decode_clip(films: list[Path]) -> None:
    sampling = Sampling(fps=10.0, window=3)
    with DecodePool(setup(Shrink(), sampling, slots=2), workers=2) as pool:
        steps, ends = decode(pool, films)
    assert [ends[i].outcome.status for i in range(5)] == ["ok"] * 5
    for number, film in enumerate(films):
        expected = list(decode_clip(film, sampling=sampling, transform=Shrink()))
        assert len(steps[number]) == len(expected)
        for (frames, start, end), step in zip(steps[number], expected, strict=True):
            np.testing.assert_array_equal(frames, step.frames)
            assert (start, end) == (step.start_s, step.end_s)
        assert ends[number].hash == hash_file(film)


def test_failures_come_as_ends(tmp_path: Path, films: list[Path]) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("words")
    with DecodePool(setup(Shrink()), workers=1) as pool:
        steps, ends = decode(pool, [text, films[0], tmp_path / "gone.mp4"])
    assert [ends[i].outcome.status for i in range(3)] == ["unreadable", "ok", "missing"]
    assert set(steps) == {1}
    assert ends[0].hash is None


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("kill", "crashed", "signal 9"),
        ("segfault", "crashed", "signal 11: a decoder's last words"),
        ("raise", "error", "RuntimeError: this frame is red"),
        ("memory", "out_of_memory", "memory"),
        ("hang", "timeout", "no progress for 0.5 s"),
    ],
)
def test_a_poisonous_file_costs_only_its_clip(
    tmp_path: Path, films: list[Path], how: str, status: str, said: str
) -> None:
    paths = [films[0], red(tmp_path / "a.png"), films[1], red(tmp_path / "b.png"), films[2]]
    with DecodePool(setup(Fragile(how=how)), workers=1, timeout=0.5) as pool:
        steps, ends = decode(pool, paths)
        again, _ = decode(pool, films)
    assert [ends[i].outcome.status for i in range(5)] == ["ok", status, "ok", status, "ok"]
    assert said in ends[1].outcome.message
    assert sorted(steps) == [0, 2, 4]
    assert len(again) == 5


def test_slow_consumers_are_not_taken_for_hanging_workers(films: list[Path]) -> None:
    with DecodePool(setup(Shrink(), slots=2), workers=1, timeout=0.3) as pool:
        ends = []
        for event in pool.run(iter([Job(0, str(films[4]))])):
            time.sleep(0.2)
            if isinstance(event, ClipResult):
                ends.append(event.outcome.status)
    assert ends == ["ok"]


def test_worker_killed_between_clips_costs_none(films: list[Path]) -> None:
    with DecodePool(setup(Shrink()), workers=1) as pool:
        assert len(decode(pool, films[:1])[1]) == 1
        os.kill(pool._workers[0]._process.pid, signal.SIGKILL)
        steps, ends = decode(pool, films)
    assert [ends[i].outcome.status for i in range(5)] == ["ok"] * 5
    assert len(steps) == 5


def test_transform_that_cannot_be_loaded_is_told() -> None:
    with (
        DecodePool(setup(Unloadable()), workers=1) as pool,
        pytest.raises(SupportsetError, match=r"did not start .*no such thing here"),
    ):
        decode(pool, [Path("a.mp4")])


def test_frames_of_another_size_are_an_error_of_the_clip(films: list[Path]) -> None:
    wrong = Setup(Sampling(), Shrink(), (1, 9, 9, 3), 4)
    with DecodePool(wrong, workers=1) as pool:
        _, ends = decode(pool, films[:1])
    assert ends[0].outcome.status == "error"
    assert "(8, 8, 3)" in ends[0].outcome.message


def test_workers_do_not_load_torch(films: list[Path]) -> None:
    code = (
        "import sys, pickle, supportset.extract.workers.decode_worker, supportset.extract.backbones.transforms;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'zarr', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_nothing_stays_behind(films: list[Path]) -> None:
    files = len(os.listdir("/proc/self/fd"))
    with DecodePool(setup(Shrink()), workers=2) as pool:
        pids = [worker._process.pid for worker in pool._workers]
        assert next(pool.run(Job(7, str(film)) for film in films)).number == 7
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    del pool
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= files


def test_workers_leave_when_the_main_process_is_killed(tmp_path: Path, films: list[Path]) -> None:
    red(tmp_path / "red.png")
    code = f"""
import sys
from pathlib import Path
from supportset.extract.workers.decode_worker import ClipResult, Job, Setup
from supportset.extract.decode.sampling import Sampling
from supportset.extract.workers.pool import DecodePool
from tests.extract.fragile import Fragile
pool = DecodePool(Setup(Sampling(), Fragile(how="hang"), (1, 8, 8, 3), 2), 2)
jobs = [Job(0, {str(tmp_path / "red.png")!r}), Job(1, {str(films[0])!r})]
for event in pool.run(iter(jobs)):
    print(*[worker._process.pid for worker in pool._workers], flush=True)
"""
    main = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert main.stdout is not None
    pids = [int(word) for word in main.stdout.readline().split()]
    assert len(pids) == 2
    main.kill()
    main.wait()
    main.stdout.close()
    until = time.monotonic() + 30  # one of them hangs, and looks up every two seconds
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < until, "workers outlive the main process"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
