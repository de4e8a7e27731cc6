"""The write path: whole and lasting, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder, as_part, hash_file, hash_parts, local


def test_file_and_tree_appear_under_their_names_only(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "new" / "folder")
    assert folder.names() == []
    assert folder.put({"a.bin": [b"one", memoryview(b"two"), as_part(np.arange(2, dtype="<i2"))]})
    assert folder.put({"b/x": [b"1"], "b/c/y": []})
    assert folder.names() == ["a.bin", "b"]
    assert folder.read("a.bin") == b"onetwo\0\0\1\0"
    assert (folder.read("b/x"), folder.read("b/c/y"), folder.read("b/z")) == (b"1", b"", None)
    assert (folder.size("a.bin"), folder.size("b/z")) == (10, None)
    assert bytes(folder.map("a.bin").content) == b"onetwo\0\0\1\0"
    assert folder.child("b").names() == ["c", "x"]


def test_only_one_name_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="files of one put"):
        LocalFolder(tmp_path).put({"a": [b""], "b": [b""]})


def test_a_file_is_replaced_and_a_tree_is_not(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.put({"a": [b"old"]})
    folder.put({"a": [b"new"]})
    assert folder.read("a") == b"new"
    folder.put({"t/a": [b"old"]})
    with pytest.raises(SupportsetError, match=r"/t: cannot write: "):
        folder.put({"t/a": [b"new"]})
    assert folder.read("t/a") == b"old"
    assert folder.names() == ["a", "t"]


@pytest.mark.parametrize("links", [True, False])
def test_taken_names_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:  # a file system without hard links
        monkeypatch.setattr(os, "link", refuse)
    folder = LocalFolder(tmp_path)
    assert folder.put({"a": [b"first"]}, replace=False)
    assert not folder.put({"a": [b"second"]}, replace=False)
    assert folder.read("a") == b"first"
    assert folder.names() == ["a"]


def test_everything_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []

    def note(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            where = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else args[-1]
            happened.append((name, "tmp" if ".tmp-" in str(where) else Path(str(where)).name))
            return real(*args, **kwargs)

        monkeypatch.setattr(local.os, name, call)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to see which file is flushed")
    for name in ("fsync", "rename"):
        note(name)
    LocalFolder(tmp_path / "store").put({"t/a": [b"1"], "t/b/c": [b"2"]})
    # The new folder's own name; two files and two folders; the rename; the folder that has the new name.
    assert happened == [("fsync", tmp_path.name), *[("fsync", "tmp")] * 4, ("rename", "t"), ("fsync", "store")]


def test_remove(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.put({"a": [b"1"]})
    folder.put({"t/a": [b"1"]})
    for name in ("a", "t", "gone"):
        folder.remove(name)
    assert folder.names() == []


def test_refusals_are_one_line_with_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SupportsetError, match=r"file/sub/a: cannot write: Not a directory; a file has the name"):
        LocalFolder(tmp_path / "file" / "sub").put({"a": [b""]})
    assert LocalFolder(tmp_path / "file").names() == []

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(local.os, "open", refuse)
    with pytest.raises(SupportsetError, match="cannot write: Permission denied; check the permissions"):
        LocalFolder(tmp_path).put({"a": [b""]})
    with pytest.raises(SupportsetError, match="cannot map the file: Permission denied"):
        LocalFolder(tmp_path).map("file")


def test_hashes_agree(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(5 * 2**20) + b"end")
    assert hash_file(path) == hash_parts([bytes(5 * 2**20), b"", b"en", b"d"])
    assert hash_parts([]) == "xxh3-128:99aa06d3014798d86001c324468d497f"  # of nothing, as the xxHash project states it
    with pytest.raises(SupportsetError, match="gone: cannot read the file: No such file"):
        hash_file(tmp_path / "gone")


def test_a_mapped_file(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.put({"a": [bytes(range(256)) * 1024]})
    folder.put({"empty": [b""]})
    file = folder.map("a")
    assert (file.complete, len(file.content), file.content.readonly) == (True, 1 << 18, True)
    file.expect_random()
    file.ask([(0, 10), (100_000, 1 << 18), (5, 5)])
    file.fetch([(0, 1 << 18)])
    assert file.content[1000] == 1000 % 256
    view = np.frombuffer(file.content, np.uint8)
    del file
    assert view[1001] == 1001 % 256  # lives as long as something views it
    empty = folder.map("empty")
    empty.expect_random()
    assert bytes(empty.content) == b""


def test_mapped_files_are_closed_and_their_number_is_not_that_of_the_soft_limit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to count open files")
    folder = LocalFolder(tmp_path)
    folder.put({"a": [b"content"]})
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < before + 200:
        pytest.skip("needs a higher hard limit of open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, hard))
    try:
        mapped = [folder.map("a") for _ in range(60)]
        assert all(file.content == b"content" for file in mapped)
        mapped.clear()
        limit = 2 * before + 100
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        while len(os.listdir("/proc/self/fd")) < 3 * limit // 4:
            mapped.append(folder.map("a"))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > limit  # before others find no room for theirs
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    del mapped
    assert len(os.listdir("/proc/self/fd")) == before
