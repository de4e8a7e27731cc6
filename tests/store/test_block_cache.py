"""The cache of remote files: each block once, never a wrong byte, never more than its room."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import block_cache
from supportset.store.files.block_cache import BlockCache, CachedFile, default_cache

BLOCK = 4096
CONTENT = np.random.default_rng(0).bytes(40 * BLOCK + 100)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "BLOCK", BLOCK)


class Far:
    """A remote file that notes what is read of it."""

    def __init__(self) -> None:
        self.read: list[tuple[int, int]] = []
        self.calls = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self.calls += 1
        self.gate.wait()
        if self.fails:
            raise SupportsetError("s3://far: cannot read the object")
        self.read += ranges
        return [CONTENT[start:stop] for start, stop in ranges]

    def blocks(self) -> list[int]:
        return sorted(block for start, stop in self.read for block in range(start // BLOCK, -(-stop // BLOCK)))


def open_far(tmp_path: Path, far: Far, name: str = "s3://far/a", version: str = "1") -> CachedFile:
    return BlockCache(tmp_path, 1 << 30).open(name, version, len(CONTENT), far)


def test_blocks_of_ranges_come_once_and_neighbours_together(tmp_path: Path) -> None:
    far = Far()
    file = open_far(tmp_path, far)
    assert (len(file.content), file.complete) == (len(CONTENT), False)
    file.fetch(
        [(BLOCK - 1, BLOCK + 1), (5 * BLOCK, 5 * BLOCK), (3 * BLOCK, 4 * BLOCK), (len(CONTENT) - 1, len(CONTENT))]
    )
    assert far.read == [(0, 2 * BLOCK), (3 * BLOCK, 4 * BLOCK), (40 * BLOCK, len(CONTENT))]
    assert far.calls == 1
    assert file.content[: 2 * BLOCK] == CONTENT[: 2 * BLOCK]
    assert file.content[-100:] == CONTENT[-100:]
    assert [file.is_cached(block * BLOCK) for block in (0, 1, 2, 40)] == [True, True, False, True]
    file.fetch([(0, 4 * BLOCK), (0, 1)])
    assert far.blocks() == [0, 1, 2, 3, 40]
    file.fetch([(0, len(CONTENT))])
    assert file.complete
    assert file.content == CONTENT
    assert far.blocks() == list(range(41))
    assert max(stop - start for start, stop in far.read) == block_cache.REQUEST * BLOCK
    again = open_far(tmp_path, far)
    again.fetch([(0, len(CONTENT))])
    assert again.content == CONTENT
    assert far.blocks() == list(range(41))


@pytest.mark.parametrize("damaged", [0, 7, 40, 41])
def test_a_flipped_bit_in_a_block_or_its_checksum_costs_that_block(tmp_path: Path, damaged: int) -> None:
    far = Far()
    open_far(tmp_path, far).fetch([(0, len(CONTENT))])
    far.read.clear()
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[damaged * BLOCK + 99 if damaged < 41 else -1] ^= 16
    path.write_bytes(content)
    file = open_far(tmp_path, far)
    file.fetch([(0, len(CONTENT))])
    assert file.content == CONTENT
    assert far.blocks() == [min(damaged, 40)]


def test_another_version_and_another_file_are_another_cache_file(tmp_path: Path) -> None:
    far = Far()
    for name, version in (("s3://far/a", "1"), ("s3://far/a", "2"), ("s3://far/b", "1")):
        open_far(tmp_path, far, name, version).fetch([(0, 1)])
    assert far.blocks() == [0, 0, 0]


def test_many_threads_share_what_comes(tmp_path: Path) -> None:
    far = Far()
    file = open_far(tmp_path, far)
    far.gate.clear()
    file.ask([(0, 10 * BLOCK)])
    seen: list[bool] = []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, len(CONTENT) - 5000, 20).tolist():
            file.ask([(start, start + 9000)])
            file.fetch([(start, start + 5000)])
            seen.append(file.content[start : start + 5000] == CONTENT[start : start + 5000])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    far.gate.set()
    for thread in threads:
        thread.join()
    file.fetch([(0, len(CONTENT))])
    assert seen == [True] * 160
    assert far.blocks() == list(range(41))  # none twice


def test_what_fails_in_the_background_is_told_by_who_needs_it(tmp_path: Path) -> None:
    far = Far()
    file = open_far(tmp_path, far)
    far.fails = True
    file.ask([(0, len(CONTENT))])
    with pytest.raises(SupportsetError, match="cannot read the object"):
        file.fetch([(0, 1)])
    far.fails = False
    file.fetch([(0, len(CONTENT))])
    assert file.content == CONTENT


def test_a_full_disk_is_told_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = open_far(tmp_path, Far())
    with monkeypatch.context() as patch:
        patch.setattr(block_cache.os, "pwrite", full)
        with pytest.raises(
            SupportsetError, match="write the cache of remote files: No space left on device; free some"
        ):
            file.fetch([(0, 1)])
    file.fetch([(0, 1)])
    (tmp_path / "file").write_text("")
    with pytest.raises(SupportsetError, match=r"SUPPORTSET_CACHE names another folder.*Not a directory"):
        open_far(tmp_path / "file", Far())


def test_those_not_opened_for_longest_make_room(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 3 * len(CONTENT))
    files = []
    for number in range(4):
        files.append(cache.open(f"s3://far/{number}", "1", len(CONTENT), Far()))
        files[-1].fetch([(0, len(CONTENT))])
    paths = sorted((path for path in tmp_path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    assert len(paths) == 4  # it looks now and then only
    for at, path in enumerate(paths):
        os.utime(path, (at, at))
    cache.open("s3://far/0", "1", len(CONTENT), Far())  # the eldest, used again
    cache.make_room()
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2
    far = Far()
    cache.open("s3://far/0", "1", len(CONTENT), far).fetch([(0, len(CONTENT))])
    assert far.read == []
    assert all(file.content == CONTENT for file in files)  # whoever has them open keeps them


def test_an_empty_file(tmp_path: Path) -> None:
    file = BlockCache(tmp_path, 1).open("s3://far/empty", "1", 0, Far())
    file.ask([(0, 0)])
    file.fetch([(0, 0)])
    assert (bytes(file.content), file.complete) == (b"", True)


def test_files_are_closed_with_their_last_view(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to count open files")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        file = BlockCache(tmp_path, 1 << 30).open(f"s3://far/{number}", "1", 5000, Far())
        view = file.content[10:20]
        del file, view
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_environment_names_folder_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPPORTSET_CACHE", raising=False)
    monkeypatch.delenv("SUPPORTSET_CACHE_GB", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache().folder.parent == tmp_path / "supportset"
    assert default_cache().budget == 20_000_000_000
    assert default_cache() is default_cache()
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("SUPPORTSET_CACHE_GB", "0.5")
    assert (default_cache().folder.parent, default_cache().budget) == (tmp_path / "mine", 500_000_000)
    for odd in ("much", "-1", "inf", "nan"):
        monkeypatch.setenv("SUPPORTSET_CACHE_GB", odd)
        with pytest.raises(UsageError, match=f"SUPPORTSET_CACHE_GB={odd}: not a size in GB"):
            default_cache()
