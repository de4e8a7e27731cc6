"""The cut-off: unrelated texts seldom pass it, fitting ones do, and what it is computed from is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from supportset.search.cutoff import FIRST, LEVEL, background_texts, cutoffs
from supportset.search.hits import By, Hit, nothing_fits, with_fits
from supportset.search.searcher import Searcher
from supportset.search.text_weighted import TextWeighted
from tests.search.films import SCENES, Planted, make_cuts

BOTH: list[By] = ["clip", "moment"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cuts")
    make_cuts(root)
    return root


def test_the_background_has_many_different_texts() -> None:
    texts = background_texts()
    assert len(texts) == len(set(texts)) == 300
    assert all(text == text.strip() for text in texts)


def fit(scores: NDArray[np.float32], least: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether one of the best clips is above its cut-off, for queries (Q, N)."""
    best = np.argsort(-scores, axis=1)[:, :FIRST]
    found: NDArray[np.bool_] = (np.take_along_axis(scores, best, 1) > least[best]).any(axis=1)
    return found


@pytest.mark.parametrize("clips", [1, 3, 40, 2000])
def test_one_of_ten_unrelated_texts_passes_in_a_library_of_any_size(clips: int) -> None:
    """Scores of unrelated texts: of their own level for each text, and for each clip."""
    rng = np.random.default_rng(clips)
    level = rng.normal(0, 0.05, clips)

    def draw(texts: int) -> NDArray[np.float32]:
        noise = rng.normal(0, 0.1, (texts, clips)) + rng.normal(0, 0.03, (texts, 1)) + level
        return noise.astype(np.float32)

    passed = [fit(draw(300), cutoffs([draw(300).T])).mean() for _ in range(20)]
    assert np.mean(passed) == pytest.approx(1 - LEVEL, abs=0.03)


def test_a_clip_that_scores_high_for_any_text_has_a_higher_cutoff() -> None:
    scores = np.random.default_rng(0).normal(0, 0.1, (50, 300)).astype(np.float32)
    scores[7] += 1.0
    least = cutoffs([scores])
    assert least[7] > 0.9 + np.delete(least, 7).mean()
    np.testing.assert_array_equal(cutoffs([scores[:1], scores[1:8], scores[8:]]), least)


def test_a_broken_clip_does_not_change_the_others() -> None:
    scores = np.random.default_rng(0).normal(0, 0.1, (50, 300)).astype(np.float32)
    broken = np.concatenate([scores, np.full((1, 300), np.nan, np.float32)])
    np.testing.assert_allclose(cutoffs([broken])[:-1], cutoffs([scores]))


@pytest.mark.parametrize("by", BOTH)
def test_scenes_fit_and_other_texts_do_not(by: By, store: Path) -> None:
    searcher = Searcher(Planted(store, True))
    scenes = searcher.search([str(scene) for scene in range(SCENES)], 5, by, group="clip")
    assert all(hits[0].fits for hits in scenes)
    assert sum(bool(hit.fits) for hits in scenes for hit in hits[1:]) < SCENES / 4, "what fits worse is told apart"
    other = searcher.search([f"another text {number}" for number in range(100)], 5, by)
    assert sum(nothing_fits(hits) is True for hits in other) > 80
    for hit in scenes[0]:
        assert hit.cutoff is not None
        assert hit.fits == (hit.score > hit.cutoff)


def test_other_queries_and_weighted_clips_are_not_judged(store: Path) -> None:
    searcher = Searcher(Planted(store, True))
    for query in ('"7" - "9"', "moment:scene7", '"7" + "8"', searcher.embed("7")):
        assert {hit.fits for hit in searcher.search([query])[0]} == {None}
    assert nothing_fits(searcher.search(["moment:scene7"])[0]) is None
    retriever = Planted(store, True)
    retriever.weighting = TextWeighted()
    weighted = Searcher(retriever)
    assert weighted.search(["7"])[0][0].fits is None
    assert weighted.search(["7"], by="moment")[0][0].fits is True


def test_a_curve_has_the_cutoff_of_its_clip(store: Path) -> None:
    searcher = Searcher(Planted(store, False))
    hit = searcher.search(["7"], 1, "moment")[0][0]
    curve = searcher.curve("7", hit.clip_id)
    assert curve.cutoff == hit.cutoff
    assert curve.scores.max() > curve.cutoff > curve.base
    assert searcher.curve("moment:scene7", "scene9").cutoff is None


def test_the_background_is_embedded_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Searcher(Planted(store, True)).search(["7"])
    asked: list[str] = []
    original = Planted.encode_text

    def encode_text(self: Planted, texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return original(self, texts)

    monkeypatch.setattr(Planted, "encode_text", encode_text)
    Searcher(Planted(store, True)).search(["7"])
    assert asked == ["7"]


def test_hits_after_the_first_fit_only_if_one_of_those_does() -> None:
    hits = [Hit(str(number), 1 - number / 10, None, 0, 0, ()) for number in range(7)]
    least = [2.0] * 6 + [0.0]
    assert not any(hit.fits for hit in with_fits(hits, least, FIRST))
    least[1] = 0.5
    assert [hit.fits for hit in with_fits(hits, least, FIRST)] == [False, True, *[False] * 4, True]
    assert nothing_fits([]) is True
