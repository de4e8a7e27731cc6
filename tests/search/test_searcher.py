"""Searches with filters, groups of clips of one file, combined queries, examples, and curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.search.filters import parse_filter
from supportset.search.hits import By
from supportset.search.moments import Moment, merge_moments
from supportset.search.query import Query, Term
from supportset.search.searcher import Searcher
from supportset.store.errors import UsageError
from tests.search.films import SCENE_S, Planted, make_cuts, make_films

BOTH: list[By] = ["clip", "moment"]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, float]]]:
    root = tmp_path_factory.mktemp("films")
    return root, make_films(root, start_s=100.0)


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """Eight files of five scenes, each cut into clips of one scene, in random order in the store."""
    root = tmp_path_factory.mktemp("cuts")
    make_cuts(root)
    return Searcher(Planted(root, True))


@pytest.mark.parametrize("by", BOTH)
@pytest.mark.parametrize("k", [1, 3, 8, 100])
def test_videos_are_ranked_by_their_best_clips(by: By, k: int, cuts: Searcher) -> None:
    """The same as all clips, of which only the first of each file is kept."""
    for hits, every in zip(
        cuts.search(["7", "31"], k, by), cuts.search(["7", "31"], 1000, by, group="clip"), strict=True
    ):
        assert len(every) == 40
        firsts = list({hit.path: hit for hit in reversed(every)}.values())
        firsts.sort(key=lambda hit: -hit.score)
        assert [(hit.clip_id, hit.score) for hit in hits] == [(hit.clip_id, hit.score) for hit in firsts[:k]]


def test_the_moments_of_a_video_are_those_of_all_its_clips(cuts: Searcher) -> None:
    query = '"7" + "9"'  # two scenes of one file, with one between them
    (hit, *_) = cuts.search([query], 3, "moment")[0]
    assert hit.path == "file1.mp4"
    assert {moment.clip_id for moment in hit.moments} == {"scene7", "scene9"}
    spans = {moment.clip_id: (moment.start_s, moment.end_s) for moment in hit.moments}
    for clip, start in (("scene7", 2 * SCENE_S), ("scene9", 4 * SCENE_S)):
        assert start - 1e-9 <= spans[clip][0] < spans[clip][1] <= start + SCENE_S + 1e-9


@pytest.mark.parametrize("by", BOTH)
def test_a_filter_leaves_the_scores_of_the_others(by: By, cuts: Searcher) -> None:
    every = cuts.search(["7"], 100, by, group="clip")[0]
    some = cuts.search(["7"], 100, by, group="clip", where=parse_filter(["name != file1.mp4"]))[0]
    assert [hit.score for hit in some] == [hit.score for hit in every if hit.path != "file1.mp4"]
    assert cuts.search(["7"], 5, by, where=parse_filter(["duration > 1000"])) == [[]]


@pytest.mark.parametrize("by", BOTH)
def test_weights_and_what_is_not_wanted_change_the_order(by: By, cuts: Searcher) -> None:
    vectors = unit_rows(cuts.retriever.encode_text(["7", "31"]))
    wanted = unit_rows((0.5 * vectors[0] - 2 * vectors[1])[None])
    found = cuts.search(['0.5*"7" - 2*"31"'], 40, by, group="clip")[0]
    by_vector = cuts.search([wanted[0]], 40, by, group="clip")[0]
    assert [hit.clip_id for hit in found] == [hit.clip_id for hit in by_vector]
    assert found[-1].clip_id == "scene31"


@pytest.mark.parametrize("by", BOTH)
def test_more_like_this_leaves_the_example_out(by: By, cuts: Searcher) -> None:
    hits = cuts.search(["moment:scene7"], 40, by, group="clip")[0]
    assert len(hits) == 39
    assert "scene7" not in {hit.clip_id for hit in hits}
    (video, *_) = cuts.search(['moment:scene7 + "8"'], 3, by)[0]
    assert video.path == "file1.mp4", "other clips of the file are found"
    assert "scene7" not in {moment.clip_id for moment in video.moments}
    with_example = cuts.search(['"7" - 0.1*moment:scene31'], 40, by, group="clip")[0]
    assert len(with_example) == 40, "a clip that is not wanted is no example of what is"


def test_a_part_of_a_clip_is_a_query(films: tuple[Path, dict[str, tuple[str, float]]]) -> None:
    root, where = films
    searcher = Searcher(Planted(root, True))
    film, start = where["19"]
    vector = searcher.embed(f"moment:{film}@{start}-{start + SCENE_S}")
    text = searcher.embed("19")
    assert vector @ text > 0.9
    assert vector @ searcher.embed(f"moment:{film}") < 0.7
    with pytest.raises(UsageError, match="has the seconds 100 to 196 of its file, nothing from 3 to 9"):
        searcher.embed(f"moment:{film}@3-9")
    with pytest.raises(UsageError, match="no clip 'absent' with features"):
        searcher.search(["moment:absent"])


def test_vectors_that_are_given_are_used(cuts: Searcher) -> None:
    term = Term("image", "upload 1", 0.5)
    upload = cuts.retriever.encode_text(["31"])[0]
    query = Query((Term("text", "7"), term))
    np.testing.assert_allclose(cuts.embed(query, {term: 3 * upload}), cuts.embed('"7" + 0.5*"31"'), atol=1e-7)
    with pytest.raises(UsageError, match="upload 1: open a gallery first"):
        cuts.embed(query)


@pytest.mark.parametrize("by_step", [True, False])
def test_a_curve_has_the_scores_of_the_parts(by_step: bool, films: tuple[Path, dict[str, tuple[str, float]]]) -> None:
    root, where = films
    searcher = Searcher(Planted(root, by_step))
    film, start = where["19"]
    curve = searcher.curve("19", film)
    assert curve.spans[0, 0] == 100.0
    assert curve.scores.max() == searcher.search(["19"], 1, "moment")[0][0].score
    best = curve.spans[curve.scores.argmax()]
    assert start - 4 <= best[0] < best[1] <= start + SCENE_S + 4
    inside = (curve.spans[:, 0] >= start) & (curve.spans[:, 1] <= start + SCENE_S)
    assert curve.scores[inside].min() > curve.base > np.median(curve.scores) - 0.2
    assert set(curve.to_json()) == {"spans", "scores", "base", "cutoff"}


def test_merged_moments_keep_the_score_and_the_clip_of_the_best() -> None:
    moments = [Moment(0, 5, 0.5, "a"), Moment(6, 9, 0.7, "b"), Moment(30, 40, 0.65, "c"), Moment(60, 61, 0.2, "d")]
    assert merge_moments(moments, 0.0) == [Moment(0, 9, 0.7, "b"), Moment(30, 40, 0.65, "c")]
    assert merge_moments(moments[3:], 0.5) == moments[3:], "the best is always told"


@pytest.mark.parametrize(
    ("wrong", "message"), [({"by": "day"}, "by 'day' is not one of"), ({"group": "x"}, "group 'x'")]
)
def test_wrong_choices_are_one_line(wrong: dict[str, str], message: str, cuts: Searcher) -> None:
    with pytest.raises(UsageError, match=message):
        cuts.search(["1"], **wrong)  # type: ignore[arg-type]


def test_scores_are_the_cosines(cuts: Searcher) -> None:
    assert cuts.embeddings is not None
    vector = cuts.embed("12")
    expected = np.sort(cosine_scores(vector[None], cuts.embeddings)[0])[::-1]
    np.testing.assert_array_equal([hit.score for hit in cuts.search(["12"], 40, group="clip")[0]], expected)
