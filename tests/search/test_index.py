"""Indexes over a library that changes: what they find is what an index made from nothing finds."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.search.index import Index, open_index
from supportset.search.index.exact import ExactIndex, WholeClipIndex
from supportset.search.kept import mean_part
from supportset.search.kept import rows as kept_rows
from supportset.search.parts import read_parts
from supportset.search.retriever import Clips
from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.dataset import write_dataset
from supportset.store.read.catalog import feature_set_path
from supportset.store.write.writer import FeatureWriter, Source
from tests.search.films import DIM, Planted

RECIPE = Recipe(
    kind="video", backbone="planted:scenes", weights="", weights_hash="xxh3-128:0", transform={}, sampling={"fps": 1.0},
    layer="pooled", pooling="none", dim=DIM, dtype="float16",
)  # fmt: skip


def write_library(root: Path, contents: dict[str, int]) -> None:
    """Write a store whose clips have the features that their numbers say."""
    shutil.rmtree(root / "films", ignore_errors=True)
    rows = [{"clip_id": clip, "path": f"{clip}.mp4"} for clip in contents]
    write_dataset(root, "films", clips=rows, captions=[], splits=[], protocols={}, sources=[])
    with FeatureWriter(feature_set_path(root, "films", RECIPE), FeatureCard(RECIPE)) as writer:
        for clip, number in contents.items():
            rng = np.random.default_rng(number)
            steps = 1 + number % 30
            values = (rng.normal(size=DIM) + rng.normal(size=(steps, DIM))).astype(np.float16)
            seconds = np.arange(steps + 1.0)
            writer.add(clip, values, np.stack([seconds[:-1], seconds[1:]], 1), source=Source(f"{clip}.mp4", 1, 1))


def some_library(rng: np.random.Generator) -> dict[str, int]:
    return {f"clip{clip}": int(rng.integers(200)) for clip in rng.permutation(60)[: rng.integers(1, 60)]}


def clips_of(retriever: Planted, kept: Path) -> Clips:
    return replace(retriever.open_clips(), kept=kept)


def by_brute_force(retriever: Planted, queries: np.ndarray, k: int, allowed: np.ndarray) -> tuple[list, list]:
    """The best of the allowed clips, from the exact scores of all parts."""
    features = retriever.open_clips().features
    parts = read_parts(retriever, features, features.clip_ids)
    scores = cosine_scores(unit_rows(queries), unit_rows(parts.vectors))
    best = np.where(allowed, np.maximum.reduceat(scores, parts.offsets[:-1], axis=1), -np.inf)
    order = np.argsort(-best, axis=1, kind="stable")[:, : min(k, allowed.sum())]
    return order.tolist(), np.take_along_axis(best, order, axis=1).tolist()


@pytest.mark.parametrize("by_step", [True, False])
def test_after_any_history_it_finds_what_an_index_made_from_nothing_finds(
    by_step: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the clips' embeddings and the background are equal, bit by bit."""
    monkeypatch.setattr(kept_rows, "_YOUNG_S", 0.0)
    rng = np.random.default_rng(int(by_step))
    retriever = Planted(tmp_path, by_step)
    queries = rng.normal(size=(4, DIM))
    for number in range(12):
        write_library(tmp_path, some_library(rng))
        (clips, fresh) = (clips_of(retriever, tmp_path / name) for name in ("kept", f"fresh{number}"))
        allowed = rng.random(len(clips.features)) < rng.choice([0.1, 0.5, 1.0])
        found, scores = open_index(retriever, clips).search(queries, 7, allowed)
        expected, expected_scores = open_index(retriever, fresh).search(queries, 7, allowed)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(scores, expected_scores)
        assert (found.tolist(), scores.tolist()) == by_brute_force(retriever, queries, 7, allowed)
        whole, anew = WholeClipIndex(retriever, clips), WholeClipIndex(retriever, fresh)
        embeddings = np.concatenate(list(whole.blocks(np.arange(len(whole)))))
        np.testing.assert_array_equal(embeddings, np.concatenate(list(anew.blocks(np.arange(len(whole))))))
        scores = np.where(allowed, cosine_scores(unit_rows(queries), embeddings), -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : min(7, allowed.sum())]
        np.testing.assert_array_equal(whole.search(queries, 7, allowed)[0], order)
        np.testing.assert_array_equal(mean_part(retriever, clips), mean_part(retriever, fresh))


def test_only_new_clips_are_embedded(tmp_path: Path) -> None:
    retriever = Planted(tmp_path, False)
    library = {f"clip{number}": number for number in range(40)}

    def embedded() -> int:
        retriever.encoded = 0
        clips = clips_of(retriever, tmp_path / "kept")
        WholeClipIndex(retriever, clips)
        found = retriever.encoded
        open_index(retriever, clips)
        return found

    write_library(tmp_path, library)
    assert embedded() == 40
    write_library(tmp_path, {"renamed" if clip == "clip3" else clip: number for clip, number in library.items()})
    assert embedded() == 0
    write_library(tmp_path, {**library, "clip5": 100, "new": 101})
    assert embedded() == 2
    write_library(tmp_path, {clip: number for clip, number in library.items() if number > 9})
    assert embedded() == 0


def test_the_codes_are_mapped_and_made_again_by_another_model(tmp_path: Path) -> None:
    retriever = Planted(tmp_path, False)
    write_library(tmp_path, {f"clip{number}": number for number in range(9)})
    clips = clips_of(retriever, tmp_path / "kept")
    index = open_index(retriever, clips)
    assert isinstance(index, ExactIndex)
    assert isinstance(index.steps.segments[0]["values"], np.memmap)
    retriever.encoded = 0
    open_index(retriever, clips)
    assert not retriever.encoded
    retriever.key = lambda: ["another"]  # type: ignore[method-assign]
    open_index(retriever, clips)
    assert retriever.encoded


@pytest.mark.parametrize("name", ["values", "scale", "error", "offsets", "content"])
def test_a_flipped_byte_changes_no_answer(name: str, tmp_path: Path) -> None:
    """It is noticed in the next process, when the file is used first; the codes are made again."""
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(50)})
    clips = clips_of(retriever, tmp_path / "kept")
    queries = np.random.default_rng(0).normal(size=(3, DIM))
    expected = [each.tolist() for each in open_index(retriever, clips).search(queries, 5)]
    rng = np.random.default_rng(1)
    for _ in range(8):
        gc.collect()
        (path,) = (tmp_path / "kept" / "parts").rglob(f"{name}.npy")
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        index = open_index(retriever, clips)
        assert [each.tolist() for each in index.search(queries, 5)] == expected
        del index


def test_files_that_vanish_while_they_are_used_are_made_again(tmp_path: Path) -> None:
    """Another process may merge segments before this one has mapped them."""
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(50)})
    clips = clips_of(retriever, tmp_path / "kept")
    queries = np.random.default_rng(0).normal(size=(3, DIM))
    index: Index = open_index(retriever, clips)
    expected = by_brute_force(retriever, queries, 5, np.ones(50, bool))
    shutil.rmtree(tmp_path / "kept")
    found, scores = index.search(queries, 5)
    assert (found.tolist(), scores.tolist()) == expected
    assert index.notes == ()


def test_an_index_that_cannot_be_written_is_in_memory_and_says_so(tmp_path: Path) -> None:
    retriever = Planted(tmp_path, True)
    write_library(tmp_path, {f"clip{number}": number for number in range(9)})
    (tmp_path / "kept").touch()
    index = open_index(retriever, clips_of(retriever, tmp_path / "kept"))
    queries = np.random.default_rng(0).normal(size=(3, DIM))
    found, scores = index.search(queries, 5)
    assert (found.tolist(), scores.tolist()) == by_brute_force(retriever, queries, 5, np.ones(9, bool))
    assert "in memory" in index.notes[0]


def test_an_unknown_index_is_refused(tmp_path: Path) -> None:
    for name in ("flat", "exact:1", "lancedb", "lancedb:"):
        with pytest.raises(UsageError, match=f"index '{name}' is not one of exact, usearch or lancedb:URL"):
            open_index(Planted(tmp_path, True), None, name)  # type: ignore[arg-type]
