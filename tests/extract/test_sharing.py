"""One run by several processes of this machine: as one process would, whatever becomes of some of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from supportset.extract.backbones import load_backbone
from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import encode, spread
from supportset.extract.progress.summary import Summary
from supportset.store.errors import UsageError
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.thumbnails import Thumbnails
from tests.extract.fakes import dataset_of, expected_features
from tests.extract.films import write_video
from tests.extract.plugin import ROOT, install
from tests.extract.runs import extract_with

pytestmark = pytest.mark.slow

COUNT = 16
SAMPLING = Sampling(fps=5.0)
CODE = """
import sys
from pathlib import Path
from supportset.extract.backbones import load_backbone
from tests.extract.runs import extract_with
from supportset.extract.decode.sampling import Sampling
from supportset.store.format.dataset import open_dataset
from supportset.store.errors import SupportsetError

root = Path(sys.argv[1])
try:
    extract_with(
        open_dataset(root / "features", "films"), root / "features", root / "videos", load_backbone("fake:0.5"),
        Sampling(fps=5.0), processes=2, workers=1, batch_size=2, device="cpu", dtype="float32",
    )
except SupportsetError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short videos, of which clip ``c00`` and ``c01`` are two parts of one."""
    folder = tmp_path_factory.mktemp("films")
    for i in range(1, COUNT):
        write_video(folder / f"{i:02}.mp4", 20 + i)
    return folder


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The fake backbones, installed as a package of their own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = install(tmp_path_factory.mktemp("plugin"))
        patch.syspath_prepend(folder)
        yield folder


def paths() -> dict[str, str | None]:
    return {f"c{i:02}": f"{max(i, 1):02}.mp4" for i in range(COUNT)}


SPANS = {"c00": (0.0, 0.6), "c01": (0.4, 0.9)}


def run(tmp_path: Path, films: Path, more: dict[str, str | None] | None = None, **options: Any) -> Summary:
    if not (tmp_path / "videos").exists():
        (tmp_path / "videos").symlink_to(films)
    dataset = dataset_of(tmp_path / "features", paths() | (more or {}), **SPANS)
    backbone = load_backbone(options.pop("backbone", "fake:0"))
    options = {"processes": 2, "workers": 1, "device": "cpu", "dtype": "float32", "max_failures": 1.0} | options
    return extract_with(dataset, tmp_path / "features", tmp_path / "videos", backbone, SAMPLING, **options)


def check(tmp_path: Path, summary: Summary) -> None:
    """Every clip is there with its own features, and no shard has one that another has."""
    assert summary.status == {"ok": COUNT}
    assert rows(tmp_path) == dict.fromkeys(paths(), 1)
    stored = FeatureSet.open(summary.path)
    for clip in ("c00", "c01", f"c{COUNT - 1:02}"):
        values, times = expected_features(
            tmp_path / "videos" / str(paths()[clip]), SAMPLING, SPANS.get(clip, (None,) * 2)
        )
        np.testing.assert_allclose(stored.read([clip])[0], values, rtol=1e-6)
        np.testing.assert_allclose(stored.read_timestamps([clip]), times)


def check_thumbnails(tmp_path: Path, summary: Summary) -> None:
    """Every clip has the thumbnails of its steps, at most three, taken while its features were computed."""
    found = Thumbnails.open(summary.path)
    assert found is not None
    assert sorted(found.clip_ids) == sorted(paths())
    assert summary.thumbnails is None, "nothing was made afterwards"
    for clip in ("c00", "c01", f"c{COUNT - 1:02}"):
        steps = list(decode_clip(tmp_path / "videos" / str(paths()[clip]), *SPANS.get(clip, (None,) * 2), SAMPLING))
        chosen = [steps[number] for number in spread(len(steps), 3)]
        assert found.spans(clip).tolist() == [[step.start_s, step.end_s] for step in chosen]
        assert [found.read(clip, step.start_s) for step in chosen] == [encode(step.frames[0]) for step in chosen]


def processes_of(pid: int) -> list[psutil.Process]:
    """The extraction processes that a process has started."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "supportset.extract.processes.worker_process" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 600  # Ray starts slowly from a cold disk, beside other work
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def sealed(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "features").glob("films/features/*/shards/[!.]*.parquet"))


def rows(tmp_path: Path) -> Counter[str]:
    """How often each clip is in the index, all shards together."""
    return Counter(clip for shard in sealed(tmp_path) for clip in pq.read_table(shard)["clip_id"].to_pylist())


@contextmanager
def killing_one(tmp_path: Path) -> Iterator[None]:
    """Kill an extraction process of ours as soon as a shard is sealed."""

    def kill() -> None:
        wait_for(lambda: sealed(tmp_path))
        processes_of(os.getpid())[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()


def test_a_killed_process_loses_nothing(tmp_path: Path, films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with killing_one(tmp_path):
        summary = run(tmp_path, films, backbone="fake:0.1", clips_per_shard=2, thumbnails=3)
    check(tmp_path, summary)
    check_thumbnails(tmp_path, summary)
    told = capsys.readouterr().err
    assert "killed by signal 9 (perhaps by the system, which was out of memory)" in told
    assert "a new process replaces it" in told
    assert f"{COUNT} of {COUNT} clips" in told.splitlines()[-1], "each is counted once"
    assert run(tmp_path, films).status == {"ok": COUNT}, "and there is nothing left to do"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_stores_what_is_complete(
    tmp_path: Path, films: Path, plugin: str, number: signal.Signals
) -> None:
    shutil.copytree(films, tmp_path / "videos")
    (tmp_path / "videos" / "text.mp4").write_text("words " * 10**6)  # the largest file comes first
    text: dict[str, str | None] = {"text": "text.mp4"}
    dataset_of(tmp_path / "features", text | paths(), **SPANS)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), plugin])},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "text: unreadable" not in process.stderr.readline():
        assert process.poll() is None
    processes = processes_of(process.pid)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    wait_for(lambda: not any(process.is_running() for process in processes))
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "the same command resumes" in told.splitlines()[-1]
        assert "Traceback" not in told
    there = rows(tmp_path)
    assert "text" in there, "what was complete is sealed, even when the process that shares the work was killed"
    assert len(there) < COUNT
    run(tmp_path, films, text, processes=1, progress=False)
    assert rows(tmp_path) == dict.fromkeys(paths() | text, 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"processes": 0}, "processes=0"),
        ({"device": "cpu,cuda:9"}, "cuda:9"),
        ({"device": "cpu,mps"}, "mps"),
        ({"device": "cpu,gpu"}, "'gpu' is not one of"),
    ],
)
def test_wrong_wishes_are_named(tmp_path: Path, films: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(tmp_path, films, **wrong)
