"""The approximate index: exact scores, a recall that is true, and the same answers after any history."""

from __future__ import annotations

import gc
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from supportset.search.index import open_index, usearch_index
from supportset.search.index.usearch_index import UsearchIndex
from supportset.search.kept import rows as kept_rows
from tests.search.films import DIM, Planted
from tests.search.test_index import by_brute_force, clips_of, some_library, write_library

pytest.importorskip("usearch")


@pytest.fixture
def graphs_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are asked, however small the library."""
    monkeypatch.setattr(usearch_index, "_LARGEST_SHARE", 1e9)


def open_usearch(retriever: Planted, kept: Path) -> UsearchIndex:
    index = open_index(retriever, clips_of(retriever, kept), "usearch")
    assert isinstance(index, UsearchIndex)
    return index


def refuse(*_: object) -> None:
    raise AssertionError("the exact scan answers")


@pytest.mark.usefixtures("graphs_answer")
def test_after_any_history_scores_are_exact_and_hits_those_of_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In graphs as small as these nothing is missed, so hits can be compared one by one."""
    monkeypatch.setattr(kept_rows, "_YOUNG_S", 0.0)
    monkeypatch.setattr(usearch_index, "_FULL_BYTES", 200 * DIM)
    monkeypatch.setattr(usearch_index, "_CANDIDATES", 100)
    rng = np.random.default_rng(5)
    retriever = Planted(tmp_path, True)
    queries = rng.normal(size=(4, DIM))
    most = 0
    for _ in range(10):
        write_library(tmp_path, some_library(rng))
        index = open_usearch(retriever, tmp_path / "kept")
        most = max(most, len(index._graphs.graphs))
        allowed = rng.random(len(index)) < rng.choice([0.5, 1.0])
        monkeypatch.setattr(index.exact, "search", refuse)
        found, scores = index.search(queries, 7, allowed)
        assert (found.tolist(), scores.tolist()) == by_brute_force(retriever, queries, 7, allowed)
    assert most > 1


@pytest.mark.usefixtures("graphs_answer")
def test_new_clips_leave_the_graphs_of_others_as_they_are(tmp_path: Path) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(30)})
    open_usearch(retriever, tmp_path / "kept")
    (before,) = (tmp_path / "kept" / "usearch").rglob("graph.npy")
    made = before.stat().st_mtime_ns
    write_library(tmp_path, {f"clip{number}": number for number in range(1, 33)})
    index = open_usearch(retriever, tmp_path / "kept")
    assert before.stat().st_mtime_ns == made
    assert sorted(map(len, index._graphs.kept.segments)) == [3, 30]


def test_the_recall_is_measured_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(30)})
    missed = UsearchIndex.search

    def search(self: UsearchIndex, *args: object) -> object:
        clips, scores = missed(self, *args)  # type: ignore[arg-type]
        return np.concatenate([clips[:, :5], np.full((len(clips), 5), -1)], axis=1), scores  # a half is wrong

    with monkeypatch.context() as patched:
        patched.setattr(UsearchIndex, "search", search)
        assert open_usearch(retriever, tmp_path / "kept").recall["recall"] == 0.5
    index = open_usearch(retriever, tmp_path / "kept")
    assert index.describe() == {"index": "usearch", "recall": 0.5, "k": 10, "queries": 30, "of": "parts of clips"}
    assert index.notes == (
        "recall@10 of the usearch index is 0.500, measured with 30 parts of clips against the exact scan",
    )
    write_library(tmp_path, {f"clip{number}": number for number in range(60)})
    assert open_usearch(retriever, tmp_path / "kept").recall["recall"] == 1.0  # a larger library is measured again
    for content in ("", "[]", "{}", json.dumps({**index.recall, "recall": "1"})):
        (tmp_path / "kept" / "usearch.json").write_text(content)
        assert open_usearch(retriever, tmp_path / "kept").recall["recall"] == 1.0


@pytest.mark.usefixtures("graphs_answer")
@pytest.mark.parametrize("name", ["graph", "offsets", "content"])
def test_a_flipped_byte_is_noticed_before_usearch_reads_it(name: str, tmp_path: Path) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(50)})
    queries = np.random.default_rng(0).normal(size=(3, DIM))
    rng = np.random.default_rng(1)
    open_usearch(retriever, tmp_path / "kept")
    for _ in range(5):
        gc.collect()
        (path,) = (tmp_path / "kept" / "usearch").rglob(f"{name}.npy")
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        index = open_usearch(retriever, tmp_path / "kept")
        found, scores = index.search(queries, 5)
        assert (found.tolist(), scores.tolist()) == by_brute_force(retriever, queries, 5, np.ones(50, bool))
        del index


@pytest.mark.usefixtures("graphs_answer")
def test_codes_that_vanish_while_graphs_are_made_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(30)})
    blocks, vanished = kept_rows.KeptRows.blocks, []

    def once(self: kept_rows.KeptRows, *args: object) -> object:
        if not vanished:
            vanished.append(shutil.rmtree(tmp_path / "kept" / "parts"))
        return blocks(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(kept_rows.KeptRows, "blocks", once)
    index = open_usearch(retriever, tmp_path / "kept")
    queries = np.random.default_rng(0).normal(size=(2, DIM))
    found, scores = index.search(queries, 5)
    assert (found.tolist(), scores.tolist()) == by_brute_force(retriever, queries, 5, np.ones(30, bool))


def test_few_allowed_clips_and_a_large_k_are_left_to_the_exact_scan(tmp_path: Path) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(60)})
    index = open_usearch(retriever, tmp_path / "kept")
    queries = np.random.default_rng(0).normal(size=(2, DIM))
    for k, allowed in (
        (5, np.arange(60) == 7),
        (60, np.ones(60, bool)),
        (100, np.arange(60) > 3),
        (3, np.zeros(60, bool)),
    ):
        found, scores = index.search(queries, k, allowed)
        expected = by_brute_force(retriever, queries, k, allowed)
        assert (found.tolist(), scores.tolist()) == expected


@pytest.mark.usefixtures("graphs_answer")
def test_many_threads_may_search_at_once(tmp_path: Path) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(60)})
    index = open_usearch(retriever, tmp_path / "kept")
    queries = np.random.default_rng(0).normal(size=(60, DIM))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: index.search(query[None], 3)[0][0].tolist(), queries))
    assert found == index.search(queries, 3)[0].tolist()


def test_a_folder_that_cannot_be_written_leaves_graphs_in_memory(tmp_path: Path) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(20)})
    (tmp_path / "kept").touch()
    index = open_usearch(retriever, tmp_path / "kept")
    queries = np.random.default_rng(0).normal(size=(2, DIM))
    found, scores = index.search(queries, 4)
    assert (found.tolist(), scores.tolist()) == by_brute_force(retriever, queries, 4, np.ones(20, bool))
    assert "in memory" in index.notes[0]


def test_parts_that_hardly_differ_from_the_first_of_a_run_are_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = np.deg2rad([0, 10, 20, 30, 40, 50, 50, 90, 90, 90, 91])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    runs, means = usearch_index._runs(vectors, np.array([8, 3]))  # alike: within 25.8 degrees
    assert runs.tolist() == [3, 1]
    np.testing.assert_allclose(np.rad2deg(np.arctan2(means[:, 1], means[:, 0])), [10, 42.5, 90, 90.33], atol=0.1)
    monkeypatch.setattr(usearch_index, "_LONGEST", 2)
    assert usearch_index._runs(vectors, np.array([8, 3]))[0].tolist() == [5, 2]
    assert usearch_index._runs(np.zeros((3, 2)), np.array([1, 2]))[0].tolist() == [1, 2]  # of broken parts
