"""Interleaved rounds: everyone runs in each, in turn, and ratios are those within a round."""

from __future__ import annotations

import pytest

from benchmarks.timing import Contender, Timings, interleave


def test_everyone_runs_each_round_in_another_order_and_warm_up_does_not_count() -> None:
    runs: list[tuple[str, int]] = []
    prepared: list[tuple[str, int]] = []

    def contender(name: str) -> Contender:
        return Contender(lambda number: runs.append((name, number)), lambda number: prepared.append((name, number)))

    contenders = {name: contender(name) for name in "abc"}
    timings = interleave(contenders, 9, warm_up=1)
    assert runs == prepared
    assert [number for _, number in runs] == [each for each in (9, *range(9)) for _ in "abc"]
    rounds = ["".join(name for name, _ in runs[at : at + 3]) for at in range(0, len(runs), 3)]
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    assert {order[0] for order in rounds} == set("abc")
    assert {name: len(seconds) for name, seconds in timings.seconds.items()} == {"a": 9, "b": 9, "c": 9}


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    timings = Timings({"ours": [1.0, 2.0, 10.0], "rival": [3.0, 8.0, 20.0]})
    assert timings.ratio("rival", "ours") == pytest.approx(3.0)  # of 3, 4 and 2; of the medians it would be 4
    assert timings.median("rival") == pytest.approx(8.0)
    assert timings.to_json()["ours"] == {"rounds": 3, "median_s": 2.0, "min_s": 1.0, "max_s": 10.0}
