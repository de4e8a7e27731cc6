"""The sampling rule, in numbers that can be checked by hand."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supportset.extract.decode.sampling import Sampling
from supportset.store.errors import UsageError


def spans(sampling: Sampling, seconds: float, frames: int = 1000) -> list[tuple[float, float, float]]:
    return [(float(a), float(b), float(m)) for a, b, m in sampling.steps(Fraction(str(seconds)), frames)]


def test_one_step_a_second() -> None:
    assert spans(Sampling(), 3.0) == [(0, 1, 0.5), (1, 2, 1.5), (2, 3, 2.5)]


def test_remainder_of_less_than_half_a_step_joins_the_last_one() -> None:
    assert spans(Sampling(fps=1.0), 2.4) == [(0, 1, 0.5), (1, 2.4, 1.5)]


def test_remainder_of_half_a_step_is_a_step() -> None:
    assert spans(Sampling(fps=1.0), 2.5) == [(0, 1, 0.5), (1, 2, 1.5), (2, 2.5, 2.5)]


def test_clip_shorter_than_half_a_step_is_one_step() -> None:
    assert spans(Sampling(fps=1.0), 0.2) == [(0, 0.2, 0.1)]
    assert spans(Sampling(fps=0.1), 0.0) == [(0, 0, 0)]


def test_frames_by_count() -> None:
    assert spans(Sampling(frames=4), 8.0) == [(0, 2, 1), (2, 4, 3), (4, 6, 5), (6, 8, 7)]


def test_no_more_steps_by_count_than_frames() -> None:
    assert len(spans(Sampling(frames=8), 3.0, frames=3)) == 3


def test_too_many_steps_are_thinned_evenly_over_the_whole_clip() -> None:
    assert spans(Sampling(fps=1.0, max_steps=4), 100.0) == [
        (0, 25, 12.5),
        (25, 50, 37.5),
        (50, 75, 62.5),
        (75, 100, 87.5),
    ]


def test_decimal_rates_are_meant_as_written() -> None:
    assert (
        len(Sampling(fps=0.1).steps(Fraction(5), 100)) == 1
    )  # 0.1 as a float is more than a tenth: 0.50000000000000003
    assert Sampling(fps=0.1).steps(Fraction(15), 100)[1].middle == 15


@given(
    seconds=st.fractions(min_value=0, max_value=4000),
    fps=st.sampled_from([0.2, 1.0, 2.5, 29.97]),
    max_steps=st.integers(1, 600),
)
def test_steps_tile_the_clip(seconds: Fraction, fps: float, max_steps: int) -> None:
    steps = Sampling(fps=fps, max_steps=max_steps).steps(seconds, 10**6)
    assert 1 <= len(steps) <= max_steps
    assert steps[0].start == 0
    assert steps[-1].end == seconds
    assert all(a.end == b.start for a, b in pairwise(steps))
    assert all(step.start <= step.middle <= step.end for step in steps)


def test_window_of_an_even_number_of_frames_lies_around_its_middle() -> None:
    assert Sampling(window=32).window_at(100, 0, 999) == list(range(85, 117))
    assert Sampling(window=16, stride=4).window_at(100, 0, 999) == list(range(72, 133, 4))


def test_window_is_moved_inside_the_clip() -> None:
    assert Sampling(window=4).window_at(10, 10, 40) == [10, 11, 12, 13]
    assert Sampling(window=4).window_at(40, 10, 40) == [37, 38, 39, 40]


def test_window_longer_than_the_clip_repeats_the_last_frame() -> None:
    assert Sampling(window=6, stride=2).window_at(1, 0, 4) == [0, 2, 4, 4, 4, 4]
    assert Sampling(window=3).window_at(7, 7, 7) == [7, 7, 7]


@given(middle=st.integers(0, 50), last=st.integers(0, 50), window=st.integers(1, 20), stride=st.integers(1, 5))
def test_windows_stay_in_the_clip_and_in_order(middle: int, last: int, window: int, stride: int) -> None:
    numbers = Sampling(window=window, stride=stride if window > 1 else None).window_at(min(middle, last), 0, last)
    assert len(numbers) == window
    assert numbers == sorted(numbers)
    assert numbers[0] >= 0
    assert numbers[-1] <= last
    if (window - 1) * stride <= last and window > 1:
        assert {b - a for a, b in pairwise(numbers)} == {stride}
        assert numbers[0] <= min(middle, last) <= numbers[-1]


def test_card_says_only_what_decides_the_frames() -> None:
    assert Sampling().to_json() == {"fps": 1.0, "max_steps": 512}
    assert Sampling(fps=2).to_json() == {"fps": 2.0, "max_steps": 512}
    assert Sampling(frames=8, max_steps=3).to_json() == {"frames": 8}
    assert Sampling(window=32).to_json() == {"fps": 1.0, "max_steps": 512, "window": 32, "stride": 1}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"fps": 0.0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": -2.0}, "fps"),
        ({"frames": 0}, "frames"),
        ({"frames": 2.5}, "frames"),
        ({"frames": True}, "frames"),
        ({"fps": 1.0, "frames": 8}, "give one"),
        ({"max_steps": 0}, "max_steps"),
        ({"window": 0}, "window"),
        ({"window": 4, "stride": 0}, "stride"),
    ],
)
def test_wrong_values_are_named(wrong: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Sampling(**wrong)
