"""The memory that a process may take, with control groups as Linux shows them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from supportset.train.data.free_memory import free_memory

GB = 10**9


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 100 GB free."""
    free = psutil.virtual_memory()._replace(available=100 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)


def put(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_where_nothing_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == 100 * GB
    put(tmp_path / "proc/self", cgroup="0::/user.slice/mine")
    put(tmp_path / "sys/fs/cgroup/user.slice/mine", memory__max="max", memory__current=GB, memory__stat="anon 1")
    assert free_memory(tmp_path) == 100 * GB


@pytest.mark.parametrize("group", ["user.slice/mine", "user.slice", "."])  # a limit further up holds as well
def test_version_2(tmp_path: Path, group: str) -> None:
    put(tmp_path / "proc/self", cgroup="0::/user.slice/mine")
    stat = f"anon {3 * GB}\ninactive_file {GB}\nactive_file {2 * GB}"
    put(tmp_path / "sys/fs/cgroup" / group, memory__max=8 * GB, memory__current=6 * GB, memory__stat=stat)
    assert free_memory(tmp_path) == 5 * GB


def test_version_1_in_a_container_that_does_not_see_its_own_group(tmp_path: Path) -> None:
    put(tmp_path / "proc/self", cgroup=f"5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/{'x' * 9}")
    stat = f"inactive_file 7\ntotal_inactive_file {GB}\ntotal_active_file 0"
    folder = tmp_path / "sys/fs/cgroup/memory"
    put(folder, memory__limit_in_bytes=4 * GB, memory__usage_in_bytes=3 * GB, memory__stat=stat)
    assert free_memory(tmp_path) == 2 * GB


def test_a_group_that_is_full_or_torn_leaves_nothing_or_says_nothing(tmp_path: Path) -> None:
    put(tmp_path / "proc/self", cgroup="0::/")
    put(tmp_path / "sys/fs/cgroup", memory__max=GB, memory__current=2 * GB, memory__stat="anon 1")
    assert free_memory(tmp_path) == 0
    put(tmp_path / "sys/fs/cgroup", memory__max="", memory__stat="what\n")
    assert free_memory(tmp_path) == 100 * GB
    put(tmp_path / "proc/self", cgroup="nonsense")
    assert free_memory(tmp_path) == 100 * GB
