"""Two folders under one name: the second does not silently replace the first."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from supportset.extract.readers.annotate import read_dataset
from supportset.store.errors import UsageError
from supportset.store.format.dataset import open_dataset, write_dataset
from supportset.store.read.catalog import feature_set_path
from supportset.store.write.writer import FeatureWriter, Source
from tests.extract.readers.forms import touch, write
from tests.store.samples import card, recipe


def put(folder: Path, store: Path, *, replace: bool = False, reader: str = "folder") -> list[str]:
    """What `extract` writes first; the clips that the store has then."""
    read_dataset(reader, folder, name="mine").write(store, replace=replace)
    return sorted(open_dataset(store, "mine").clips["clip_id"].to_pylist())


@pytest.fixture
def first(tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    touch(folder, "a.mp4", "b.mp4")
    write(folder / "captions.csv", "path,caption\na,a dog\nb,a cat\n")
    put(folder, tmp_path / "store")
    return folder


def test_another_folder_is_refused_by_both_names(first: Path, tmp_path: Path) -> None:
    touch(tmp_path / "second", "c.mp4")
    with pytest.raises(UsageError) as caught:
        put(tmp_path / "second", tmp_path / "store")
    line = str(caught.value)
    assert all(each in line for each in (str(first), str(tmp_path / "second"), "lacks 2 of its 2 clips", "--name"))
    assert "\n" not in line
    assert open_dataset(tmp_path / "store", "mine").captions["text"].to_pylist() == ["a dog", "a cat"]
    assert put(tmp_path / "second", tmp_path / "store", replace=True) == ["c"]


def test_captions_of_the_first_are_not_lost(first: Path, tmp_path: Path) -> None:
    touch(tmp_path / "second", "a.mp4", "b.mp4", "c.mp4")
    with pytest.raises(UsageError, match="lacks 2 of its captions"):
        put(tmp_path / "second", tmp_path / "store")


def test_files_that_only_share_their_names_are_others(first: Path, tmp_path: Path) -> None:
    second, store = tmp_path / "second", tmp_path / "store"
    shutil.copytree(first, second)
    path = Path(feature_set_path(store, "mine", recipe()))
    with FeatureWriter(path, card()) as writer:
        size = (first / "a.mp4").stat().st_size
        writer.add("a", np.ones((1, 6), np.float16), np.array([[0.0, 1.0]]), source=Source("a.mp4", size, 1))
    (second / "a.mp4").write_bytes(bytes(size + 1))
    with pytest.raises(UsageError, match="its file of clip 'a' is another"):
        put(second, store)
    (second / "a.mp4").write_bytes(bytes(size))
    assert put(second, store) == ["a", "b"]


def test_the_same_folder_may_change_and_move(first: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    touch(first, "c.mp4")
    assert put(first, store) == ["a", "b", "c"]
    moved = first.rename(tmp_path / "moved")
    assert put(moved, store) == ["a", "b", "c"]
    touch(moved, "d.mp4")
    assert put(moved, store) == ["a", "b", "c", "d"]
    (moved / "a.mp4").unlink()
    (moved / "captions.csv").unlink()
    assert put(moved, store) == ["b", "c", "d"]


def test_tables_that_do_not_say_where_they_are_from(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for clips, refused in ((["x"], True), (["a", "x"], False)):
        rows = [{"clip_id": clip_id} for clip_id in clips]
        write_dataset(store, "mine", clips=rows, captions=[], splits=[], protocols={}, sources=[])
        touch(tmp_path / "new", "a.mp4")
        if refused:
            with pytest.raises(UsageError, match=r"another folder .* has none of its 1 clips"):
                put(tmp_path / "new", store)
        else:
            assert put(tmp_path / "new", store) == ["a"]
