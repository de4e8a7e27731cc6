"""Moments: where they begin and end, and how many there are."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from supportset.search.moments import Moment, Rule, find_moments


def seconds(count: int, step: float = 1.0) -> np.ndarray:
    """Steps back to back."""
    starts = np.arange(count) * step
    return np.stack([starts, starts + step], axis=1)


SHARP = Rule(smooth_s=0)


def test_a_moment_is_cut_where_the_scores_fall() -> None:
    scores = [0.1] * 10 + [0.3] * 5 + [0.1] * 10
    assert find_moments(scores, seconds(25), base=0.1, rule=SHARP) == [Moment(10.0, 15.0, 0.3)]


def test_a_clip_that_fits_as_a_whole_is_one_moment() -> None:
    scores = 0.3 + 0.02 * np.sin(np.arange(40))
    (moment,) = find_moments(scores, seconds(40), base=0.1)
    assert (moment.start_s, moment.end_s) == (0.0, 40.0)


def test_one_odd_frame_makes_no_moment_beside_a_long_one() -> None:
    scores = np.full(60, 0.1)
    scores[20:30] = 0.28
    scores[50] = 0.3
    best, *others = find_moments(scores, seconds(60), base=0.1, rule=Rule(smooth_s=3))
    assert 18 <= best.start_s <= 22
    assert 28 <= best.end_s <= 32
    assert not others


def test_two_far_moments_are_two_and_near_ones_one() -> None:
    scores = np.full(40, 0.1)
    scores[[5, 6, 30, 31]] = 0.3, 0.3, 0.32, 0.3
    assert find_moments(scores, seconds(40), 0.1, SHARP) == [Moment(30.0, 32.0, 0.32), Moment(5.0, 7.0, 0.3)]
    scores = np.full(40, 0.1)
    scores[[5, 6, 9, 10]] = 0.3
    assert find_moments(scores, seconds(40), 0.1, SHARP) == [Moment(5.0, 11.0, 0.3)]


def test_a_weak_second_moment_is_left_out_and_no_more_than_the_most_are_given() -> None:
    scores = np.full(100, 0.1)
    scores[[10, 30, 50, 70]] = 0.3, 0.29, 0.28, 0.27
    scores[90] = 0.2
    found = find_moments(scores, seconds(100), 0.1, Rule(smooth_s=0, most=3))
    assert [moment.start_s for moment in found] == [10, 30, 50]
    found = find_moments(scores, seconds(100), 0.1, Rule(smooth_s=0, most=9))
    assert [moment.start_s for moment in found] == [10, 30, 50, 70]


def test_one_step_is_itself_and_a_picture_without_length_too() -> None:
    assert find_moments([0.2], [(0.0, 4.0)], base=0.5) == [Moment(0.0, 4.0, 0.2)]
    assert find_moments([0.2], [(0.0, 0.0)], base=0.1) == [Moment(0.0, 0.0, 0.2)]


def test_where_nothing_rises_above_the_background_the_best_step_is_the_moment() -> None:
    assert find_moments([0.1, 0.2, 0.1], seconds(3), base=0.5, rule=SHARP) == [Moment(1.0, 2.0, 0.2)]


def test_steps_of_half_a_second_are_smoothed_over_the_same_time() -> None:
    slow = np.full(30, 0.1)
    slow[10:20] = 0.3
    (one,) = find_moments(slow, seconds(30), 0.1)
    (other,) = find_moments(np.repeat(slow, 2), seconds(60, 0.5), 0.1)
    assert abs(one.start_s - other.start_s) <= 0.5
    assert abs(one.end_s - other.end_s) <= 0.5


def test_a_moment_does_not_reach_over_a_hole_in_the_steps() -> None:
    spans = [(0.0, 1.0), (1.0, 2.0), (60.0, 61.0), (62.0, 63.0)]
    found = find_moments([0.3, 0.2, 0.31, 0.2], spans, 0.0, SHARP)
    assert found == [Moment(60.0, 63.0, 0.31), Moment(0.0, 2.0, 0.3)]


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from([0.0, 0.5, 1.0, 7.0])), min_size=1, max_size=25, unique=True
    ),
    seed=st.integers(0, 99),
)
def test_steps_may_be_in_disorder_overlap_or_have_no_length(steps: list[tuple[int, float]], seed: int) -> None:
    """The store takes such timestamps: the moments lie in the clip and apart, in whatever order the steps come."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-1, 1, len(steps))
    spans = np.array([(start, start + length) for start, length in steps])
    found = find_moments(scores, spans, 0.0)
    shuffled = rng.permutation(len(steps))
    assert found == find_moments(scores[shuffled], spans[shuffled], 0.0)
    ordered = sorted(found, key=lambda moment: moment.start_s)
    assert all(spans.min() <= each.start_s <= each.end_s <= spans.max() for each in found)
    assert all(one.end_s <= other.start_s for one, other in itertools.pairwise(ordered))


@given(
    scores=st.lists(st.floats(-1, 1) | st.just(float("nan")), min_size=1, max_size=60),
    base=st.floats(-1, 1),
    smooth=st.floats(0, 5),
    gap=st.floats(0, 5),
)
def test_moments_lie_in_the_clip_apart_from_each_other_and_hold_their_score(
    scores: list[float], base: float, smooth: float, gap: float
) -> None:
    spans = seconds(len(scores))
    found = find_moments(scores, spans, base, Rule(smooth_s=smooth, gap_s=gap))
    assert 1 <= len(found) <= 3
    values = np.where(np.isfinite(scores), scores, base)
    for moment in found:
        assert 0 <= moment.start_s < moment.end_s <= len(scores)
        assert moment.score == values[int(moment.start_s) : int(moment.end_s)].max()
    ordered = sorted(found, key=lambda moment: moment.start_s)
    for one, other in itertools.pairwise(ordered):
        assert other.start_s - one.end_s > gap
    assert [moment.score for moment in found] == sorted((moment.score for moment in found), reverse=True)
