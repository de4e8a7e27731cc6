"""Moments of a library of long films: the right film and the right seconds, by steps and by windows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.search.clip_moments import is_picture
from supportset.search.moments import find_moments
from supportset.search.parts import encode_parts, windows
from supportset.search.searcher import Searcher
from supportset.store.errors import UsageError
from tests.search.films import SCENE_S, Planted, make_films


def seconds(count: int, step: float = 1.0) -> np.ndarray:
    starts = np.arange(count) * step
    return np.stack([starts, starts + step], axis=1)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, float]]]:
    root = tmp_path_factory.mktemp("films")
    return root, make_films(root, start_s=100.0)


@pytest.mark.parametrize("by_step", [True, False])
def test_every_scene_is_found_in_its_film_at_its_time(
    by_step: bool, films: tuple[Path, dict[str, tuple[str, float]]]
) -> None:
    root, where = films
    searcher = Searcher(Planted(root, by_step))
    for (film, start), hits in zip(where.values(), searcher.search(list(where), 3, "moment"), strict=True):
        best = hits[0]
        assert best.clip_id == film
        overlap = min(best.end_s, start + SCENE_S) - max(best.start_s, start)
        union = max(best.end_s, start + SCENE_S) - min(best.start_s, start)
        assert overlap / union > 0.6
        assert best.moments[0].start_s == best.start_s
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_by_clip_the_order_is_that_of_whole_clips_and_moments_are_the_same(
    films: tuple[Path, dict[str, tuple[str, float]]],
) -> None:
    root, _ = films
    searcher = Searcher(Planted(root, True))
    (by_clip,), (by_moment,) = searcher.search(["7"], 5), searcher.search(["7"], 5, "moment")
    assert searcher.embeddings is not None
    scores = cosine_scores(unit_rows(searcher.retriever.encode_text(["7"])), searcher.embeddings)[0]
    assert [hit.score for hit in by_clip] == sorted(scores.tolist(), reverse=True)
    assert {hit.clip_id: hit.moments for hit in by_clip} == {hit.clip_id: hit.moments for hit in by_moment}


def test_a_still_picture_has_no_times_and_moving_ones_have() -> None:
    assert is_picture("a/photo.JPG", seconds(1))
    assert not is_picture("film.mp4", seconds(1))
    assert not is_picture("moving.gif", seconds(3))
    assert not is_picture(None, seconds(1))


def test_windows_cover_every_step_and_are_of_one_length() -> None:
    for count in range(1, 40):
        for step in (0.25, 1.0, 3.0, 20.0):
            cut = windows(seconds(count, step))
            assert len({b - a for a, b in cut}) == 1
            assert sorted(set(cut)) == cut
            assert {i for a, b in cut for i in range(a, b)} == set(range(count))
    assert windows(np.zeros((1, 2))) == [(0, 1)]  # a picture


def test_scores_of_windows_become_scores_of_the_time_between_their_edges() -> None:
    spans = [(0.0, 8.0), (4.0, 12.0), (8.0, 16.0), (20.0, 24.0)]
    (best, *_) = find_moments([0.0, 0.0, 1.0, 0.0], spans, 0.0)
    assert (best.start_s, best.end_s) in {(8.0, 16.0), (12.0, 16.0)}
    assert best.score == 1.0  # of 12 to 16 s, which one window covers


def test_windows_of_steps_in_disorder_begin_before_they_end() -> None:
    spans = seconds(20)[::-1]
    cut = encode_parts(Planted(Path(), False), [np.ones((20, 32))], [spans])
    assert (cut.spans[:, 1] - cut.spans[:, 0] == 8).all()


def test_other_times_of_the_same_features_make_other_windows(tmp_path: Path) -> None:
    """As after an import with the right --fps: what was kept before is not used."""
    make_films(tmp_path)
    Searcher(Planted(tmp_path, False)).search(["9"], 5, "moment")
    shutil.rmtree(tmp_path / "films")
    make_films(tmp_path, step_s=2.0)
    found = Searcher(Planted(tmp_path, False)).search(["9"], 5, "moment")
    shutil.rmtree(tmp_path / "cache")
    assert found == Searcher(Planted(tmp_path, False)).search(["9"], 5, "moment")


def test_clips_of_one_step_are_parts_themselves() -> None:
    clips = [np.ones((1, 32)), np.ones((3, 32))]
    for by_step, expected in ((True, [0, 1, 4]), (False, [0, 1, 2])):
        found = encode_parts(Planted(Path(), by_step), clips, [np.zeros((1, 2)), seconds(3)])
        assert found.offsets.tolist() == expected
        assert found.spans[0].tolist() == [0.0, 0.0]


def test_another_way_to_rank_is_refused(films: tuple[Path, dict[str, tuple[str, float]]]) -> None:
    with pytest.raises(UsageError, match="by 'film' is not one of clip, moment"):
        Searcher(Planted(films[0], True)).search(["1"], 1, "film")  # type: ignore[arg-type]
