"""A table of LanceDB gives the hits of the exact scan, in a folder and in an object store, after any history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from supportset.search.index import open_index
from supportset.search.index.lance_index import LanceIndex
from supportset.search.index.lance_table import Exported, LanceTable
from supportset.store.errors import SupportsetError, UsageError
from tests.s3_server import S3Server
from tests.search.films import DIM, Planted
from tests.search.test_index import by_brute_force, clips_of, some_library, write_library

lancedb = pytest.importorskip("lancedb")
pytest.importorskip("lancedb.index")


def export(retriever: Planted, url: str) -> Exported:
    return LanceTable(retriever, retriever.open_clips(), url).export()


def open_lance(retriever: Planted, url: str) -> LanceIndex:
    index = open_index(retriever, retriever.open_clips(), f"lancedb:{url}")
    assert isinstance(index, LanceIndex)
    return index


@pytest.mark.parametrize("by_step", [True, False])
def test_after_any_history_the_hits_are_those_of_the_scan(by_step: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(int(by_step))
    retriever, url = Planted(tmp_path, by_step), str(tmp_path / "lance")
    queries = rng.normal(size=(3, DIM))
    for _ in range(5):
        library = some_library(rng)
        write_library(tmp_path, library)
        done = export(retriever, url)
        assert done.clips == len(library)
        again = export(retriever, url)
        assert (again.added, again.removed, again.parts) == (0, 0, done.parts)
        index = open_lance(retriever, url)
        assert index.notes == ()
        for k, allowed in ((7, rng.random(len(index)) < 0.5), (7, None), (100, None), (3, np.arange(len(index)) == 0)):
            found, scores = index.search(queries, k, allowed)
            expected, expected_scores = open_index(retriever, clips_of(retriever, tmp_path / "kept")).search(
                queries, k, allowed
            )
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(scores, expected_scores)


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    retriever, url = Planted(tmp_path, False), str(tmp_path / "lance")
    library = {f"clip{number}": number for number in range(20)}
    write_library(tmp_path, library)
    assert export(retriever, url).added == 20
    write_library(
        tmp_path, {**{clip: number for clip, number in library.items() if number > 2}, "clip5": 99, "o'clip": 50}
    )
    done = export(retriever, url)
    assert (done.added, done.removed, done.clips) == (2, 4, 18)
    write_library(tmp_path, {"only": 1})
    assert export(retriever, url).removed == 18


def test_rows_say_what_they_are_of(tmp_path: Path) -> None:
    retriever, url = Planted(tmp_path, True), str(tmp_path / "lance")
    write_library(tmp_path, {"a": 3, "b": 29})
    name = export(retriever, url).table
    table = lancedb.connect(url).open_table(name).to_arrow().sort_by([("clip_id", "ascending"), ("part", "ascending")])
    assert table.column_names == ["dataset", "clip_id", "part", "path", "start_s", "end_s", "vector", "content", "key"]
    assert table["clip_id"].to_pylist() == ["a"] * 4 + ["b"] * 30
    assert table["part"].to_pylist() == [*range(4), *range(30)]
    assert set(table["path"].to_pylist()) == {"a.mp4", "b.mp4"}
    assert table["start_s"].to_pylist()[:4] == [0, 1, 2, 3]
    assert table["end_s"].to_pylist()[:4] == [1, 2, 3, 4]
    vectors = np.asarray(table["vector"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_clips_that_the_table_lacks_are_counted_and_stale_rows_are_not_found(tmp_path: Path) -> None:
    retriever, url = Planted(tmp_path, True), str(tmp_path / "lance")
    write_library(tmp_path, {f"clip{number}": number for number in range(20)})
    export(retriever, url)
    write_library(tmp_path, {**{f"clip{number}": number for number in range(1, 20)}, "clip4": 70, "new": 71})
    index = open_lance(retriever, url)
    assert index.notes[0].startswith("2 of 20 clips are not in the table, or have changed")
    queries = np.random.default_rng(0).normal(size=(3, DIM))
    ids = retriever.open_clips().features.clip_ids
    there = np.asarray([clip not in ("clip4", "new") for clip in ids])
    found, scores = index.search(queries, 30)
    assert (found.tolist(), scores.tolist()) == by_brute_force(retriever, queries, 30, there)


def test_parts_that_are_not_finite_are_never_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever, url = Planted(tmp_path, True), str(tmp_path / "lance")
    write_library(tmp_path, {"whole": 3, "half": 5, "broken": 7})
    encode = Planted.encode_steps

    def broken(self: Planted, clips: list[np.ndarray]) -> np.ndarray | None:
        steps = encode(self, clips)
        assert steps is not None
        ends = np.cumsum([len(clip) for clip in clips])
        for clip, end in zip(clips, ends, strict=True):
            if len(clip) > 4:
                steps[end - (1 if len(clip) == 6 else len(clip)) : end] = np.nan
        return steps

    monkeypatch.setattr(Planted, "encode_steps", broken)
    export(retriever, url)
    index, exact = open_lance(retriever, url), open_index(retriever, clips_of(retriever, tmp_path / "kept"))
    queries = np.random.default_rng(0).normal(size=(3, DIM))
    for one, other in zip(index.search(queries, 5), exact.search(queries, 5), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == (3, 2)


def test_an_index_of_the_table_is_told_and_scores_stay_exact(tmp_path: Path) -> None:
    retriever, url = Planted(tmp_path, True), str(tmp_path / "lance")
    write_library(tmp_path, {f"clip{number}": number for number in range(60)})
    name = export(retriever, url).table
    config = lancedb.index.IvfPq(distance_type="dot", num_partitions=4, num_sub_vectors=8)
    lancedb.connect(url).open_table(name).create_index("vector", config=config)
    index = open_lance(retriever, url)
    assert index.notes == ("the table's index vector_idx is approximate: it may miss hits; scores are exact",)
    queries = np.random.default_rng(0).normal(size=(3, DIM))
    exact = open_index(retriever, clips_of(retriever, tmp_path / "kept"))
    _, every = exact.search(queries, 60)
    order, _ = exact.search(queries, 60)
    found, scores = index.search(queries, 5)
    for row in range(3):
        score_of = dict(zip(order[row].tolist(), every[row].tolist(), strict=True))
        assert scores[row].tolist() == sorted(scores[row].tolist(), reverse=True)
        # The best part of a clip may be missed, a part is never scored higher than it is
        assert all(
            score <= score_of[clip] for clip, score in zip(found[row].tolist(), scores[row].tolist(), strict=True)
        )
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), order[:, :5].tolist(), strict=True)]) >= 3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import boto3

    boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket=server.bucket.removeprefix("s3://"))
    yield server
    server.stop()


def test_a_table_in_an_object_store_gives_the_same(s3: S3Server, tmp_path: Path) -> None:
    retriever, url = Planted(tmp_path, True), f"{s3.bucket}/index"
    queries = np.random.default_rng(0).normal(size=(3, DIM))
    for count in (20, 25):
        write_library(tmp_path, {f"clip{number}": number for number in range(count)})
        assert export(retriever, url).clips == count
        found, scores = open_lance(retriever, url).search(queries, 6)
        assert (found.tolist(), scores.tolist()) == by_brute_force(retriever, queries, 6, np.ones(count, bool))


def test_errors_are_one_line(tmp_path: Path) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {"a": 1})
    with pytest.raises(UsageError, match=r"no table films-[0-9a-f]{16} of this dataset, model and features: make it"):
        open_lance(retriever, str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(SupportsetError, match="LanceDB cannot"):
        export(retriever, str(tmp_path / "file"))
    with pytest.raises(SupportsetError, match="LanceDB cannot"):
        export(retriever, "nothing://bucket/index")
    export(retriever, str(tmp_path / "lance"))
    with pytest.raises(UsageError, match=r"queries of shape \(1, 3\), not \(Q, 32\)"):
        open_lance(retriever, str(tmp_path / "lance")).search(np.ones((1, 3)), 1)
