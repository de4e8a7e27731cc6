"""A run on a real Ray cluster of this machine; slow to start, so each test shows several things."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from supportset.extract.processes.ray_cluster import RayProcesses
from supportset.extract.processes.worker_process import Order
from supportset.store.errors import SupportsetError, UsageError
from tests.extract.fakes import dataset_of
from tests.extract.plugin import ROOT, install
from tests.extract.test_extraction_process import settings_of
from tests.extract.test_sharing import (
    COUNT,
    SPANS,
    check,
    check_thumbnails,
    films,
    paths,
    processes_of,
    run,
    sealed,
    wait_for,
)

pytestmark = pytest.mark.slow

__all__ = ["films"]  # a fixture
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
        open_dataset(root / "features", "films"), root / "features", root / "videos", load_backbone("fake:0.1"),
        Sampling(fps=5.0), ray="local", processes=2, workers=1, batch_size=2, dtype="float32",
    )
except SupportsetError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def with_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The fake backbones, installed as a package of their own for the workers of Ray, too."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        folder = install(tmp_path_factory.mktemp("plugin"))
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), folder]))
        yield folder


def test_lost_workers_lose_nothing(
    tmp_path: Path, films: Path, with_ray: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """First a worker of Ray goes with all it runs, as with its machine; then the model's process of another."""

    def kill() -> None:
        wait_for(lambda: sealed(tmp_path))
        process = processes_of(os.getpid())[0]
        before, host = len(sealed(tmp_path)), psutil.Process(process.ppid())
        host.kill()
        wait_for(lambda: not process.is_running())
        wait_for(lambda: len(sealed(tmp_path)) > before)
        processes_of(os.getpid())[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    summary = run(tmp_path, films, backbone="fake:0.2", ray="local", device="auto", clips_per_shard=1, thumbnails=3)
    thread.join()
    check(tmp_path, summary)
    check_thumbnails(tmp_path, summary)
    told = capsys.readouterr().err
    assert "was lost:" in told
    assert "killed by signal 9" in told
    assert f"{COUNT} of {COUNT} clips" in told.splitlines()[-1]


def test_a_stopped_run_stores_what_is_complete(tmp_path: Path, films: Path, with_ray: str) -> None:
    (tmp_path / "videos").symlink_to(films)
    dataset_of(tmp_path / "features", paths(), **SPANS)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: any(child for process in processes_of(process.pid) for child in process.children()))
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 130, told
    assert "the same command resumes" in told.splitlines()[-1]
    assert not processes_of(os.getpid())
    check(tmp_path, run(tmp_path, films, processes=1))


def order(**changes: Any) -> Order:
    return Order(settings_of(Path(), **changes), "fake:0", "xxh3-128:00", os.getcwd())


def test_ray_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install '.\[ray\]'"):
        RayProcesses(order(), "local")


@pytest.mark.parametrize("device", ["cuda:0", "cuda:0,cuda:1", "mps"])
def test_devices_are_for_ray_to_choose(device: str) -> None:
    with pytest.raises(UsageError, match="give auto, cuda or cpu"):
        RayProcesses(order(device=device), "local")


def test_a_cluster_that_is_not_there_is_told() -> None:
    pytest.importorskip("ray")
    with pytest.raises(SupportsetError, match=r"no Ray cluster at '127.0.0.1:1' .*refused"):
        RayProcesses(order(), "127.0.0.1:1")
