"""How a process of ours uses the machine: cores that a container allows, and what the libraries are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supportset import _process
from supportset._process import THREADS, cores, sleeping_threads, threads_of


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "_affinity", lambda: 8)


def kernel(folder: Path, groups: str, mounts: list[tuple[str, str, str]], files: dict[str, str]) -> Path:
    """A folder like /proc/self, with mounts as (root, kind, options), each of a folder beside it."""
    lines = [
        f"31 23 0:28 {root} {folder / str(number)} rw,relatime shared:9 - {kind} cgroup {options}"
        for number, (root, kind, options) in enumerate(mounts)
    ]
    (folder / "mountinfo").write_text("\n".join(["22 1 0:20 / / rw - ext4 /dev/vda rw", *lines]) + "\n")
    (folder / "cgroup").write_text(groups)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


FIVE = [("quota", "250000\n"), ("period", "50000\n")]
V2 = [("/", "cgroup2", "rw")]
V1 = [("/", "cgroup", "rw,memory"), ("/", "cgroup", "rw,cpu,cpuacct")]


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "expected"),
    [
        ("0::/\n", V2, {"0/cpu.max": "max 100000\n"}, 8),
        ("0::/\n", V2, {"0/cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", V2, {"0/cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", V2, {"0/cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", V2, {"0/cpu.max": "9900000 100000\n"}, 8),
        ("0::/a/b\n", V2, {"0/a/cpu.max": "200000 100000\n", "0/a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/a\n", V2, {"0/b/cpu.max": "200000 100000\n"}, 8),
        ("0::/docker/x\n", [("/docker/x", "cgroup2", "rw")], {"0/cpu.max": "400000 100000\n"}, 4),
        ("0::/../y\n", V2, {"0/cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", V2, {"0/cpu.max": "nonsense\n"}, 8),
        ("4:memory:/m\n3:cpu,cpuacct:/j\n", V1, {f"1/j/cpu.cfs_{n}_us": v for n, v in FIVE}, 5),
        ("3:cpu,cpuacct:/j\n", V1, {"1/j/cpu.cfs_quota_us": "-1\n", "1/j/cpu.cfs_period_us": "100000"}, 8),
        ("", [], {}, 8),
    ],
)  # fmt: skip
def test_a_quota_bounds_the_cores(
    tmp_path: Path, groups: str, mounts: list[tuple[str, str, str]], files: dict[str, str], expected: int
) -> None:
    assert cores(kernel(tmp_path, groups, mounts, files)) == expected


def test_without_such_files_the_affinity_counts(tmp_path: Path) -> None:
    assert cores(tmp_path / "nothing") == 8


def test_a_process_gets_its_share_of_threads_or_fewer_as_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    assert threads_of(3) == dict.fromkeys(THREADS, "3")
    monkeypatch.setenv(THREADS[0], "1")
    monkeypatch.setenv(THREADS[1], "16")
    monkeypatch.setenv(THREADS[2], "all")
    assert threads_of(3) == dict(zip(THREADS, "133", strict=True))


def test_what_the_user_says_of_waiting_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert sleeping_threads()["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert sleeping_threads()["GOMP_SPINCOUNT"] == "7"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert sleeping_threads() == {}


def test_a_quota_reaches_libraries_that_do_not_know_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    monkeypatch.setattr(_process, "cores", lambda: 2)
    _process.prepare_process()
    assert [os.environ[name] for name in THREADS] == ["2", "2", "2"]
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(_process, "cores", lambda: 8)
    _process.prepare_process()
    assert not set(THREADS) & set(os.environ)
