"""The rivals do the same job: a reader that gives something else is not timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.page_cache import files_below, share_in_memory
from benchmarks.store.corpus import FORMATS, Corpus
from benchmarks.store.rivals import (
    BareMaps,
    Hdf5Datasets,
    LibrarySlices,
    ManyThreads,
    NpyFiles,
    RamSlices,
    check_same,
)

CORPUS = Corpus(30, (1, 9), 8)


def test_all_read_the_same(tmp_path: Path) -> None:
    stores = {name: CORPUS.write_store(tmp_path / name, name, 7) for name in FORMATS}
    readers = {
        "ram": RamSlices(CORPUS),
        "small pages": RamSlices(CORPUS, small_pages=True),
        "npy": NpyFiles(CORPUS.write_npy(tmp_path / "npy"), CORPUS.ids),
        "datasets": Hdf5Datasets(CORPUS.write_hdf5(tmp_path / "datasets.h5"), CORPUS.ids),
        **{name: LibrarySlices(path, name, CORPUS.ids) for name, path in stores.items()},
        **{f"bare {name}": BareMaps(path, CORPUS.ids) for name, path in stores.items()},
        **{f"threads {name}": ManyThreads(path, CORPUS.ids) for name, path in stores.items()},
    }
    check_same(readers, np.array([3, 29, 0, 3]), CORPUS)


def test_one_that_reads_something_else_is_named() -> None:
    other = Corpus(30, (1, 9), 8)
    other._pool[:] += 1
    with pytest.raises(AssertionError, match="wrong does not read what was written"):
        check_same({"right": RamSlices(CORPUS), "wrong": RamSlices(other)}, np.array([3]), CORPUS)


def test_the_corpus_is_the_same_in_every_run() -> None:
    again = Corpus(30, (1, 9), 8)
    assert again.packed().tobytes() == CORPUS.packed().tobytes()
    assert [rows.tolist() for rows in again.batches(2, 5, 1)] == [rows.tolist() for rows in CORPUS.batches(2, 5, 1)]
    assert CORPUS.batches(1, 5, 1)[0].tolist() != CORPUS.batches(1, 5, 2)[0].tolist()


def test_what_was_just_written_lies_in_memory(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(bytes(100_000))
    (tmp_path / "empty").write_bytes(b"")
    files = files_below(tmp_path)
    assert [file.name for file in files] == ["file", "empty"]
    assert share_in_memory(files) == 1.0
