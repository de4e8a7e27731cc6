"""Intervals and tests against loops written from their definitions, and on data where the truth is known."""

from __future__ import annotations

import io
import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from supportset.evaluate.paired_tests import (
    METRICS,
    Hits,
    bootstrap,
    count_hits,
    holm,
    interval,
    permutation_p,
    sign_test_p,
)
from supportset.train.ablation.plot import plot_png


def hits(seed: int, skill: float, clips: int = 40, seeds: int = 3) -> Hits:
    """Runs that answer each of 1 to 4 queries a clip with a probability of about ``skill``."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(clips), np.arange(clips) % 4 + 1)
    found = []
    for _ in range(seeds):
        parts, asked = [], []
        for group in (owner, np.arange(clips)):
            ranks = np.where(rng.random(len(group)) < skill, rng.integers(1, 12, size=len(group)), 99.0)
            each, number = count_hits(ranks, group, clips)
            parts.append(each)
            asked.append(np.repeat(number[:, None], 3, axis=1))
        found.append(np.concatenate(parts, axis=1))
    return Hits(tuple(range(seeds)), np.stack(found), np.concatenate(asked, axis=1))


def test_hits_are_counted_by_clip() -> None:
    found, asked = count_hits([1, 2, 6, np.inf, 10], [0, 2, 2, 0, 2], 4)
    assert found.tolist() == [[1, 1, 1], [0, 0, 0], [0, 1, 3], [0, 0, 0]]
    assert asked.tolist() == [2, 0, 3, 0]


def test_scores_are_those_of_the_queries() -> None:
    found, asked = count_hits([1, 2, 6, np.inf, 10], [0, 2, 2, 0, 2], 3)
    both = Hits((5,), np.concatenate([found, found], axis=1)[None], np.repeat(asked[:, None], 6, axis=1))
    assert both.scores()[0].tolist() == pytest.approx([20, 40, 80, 20, 40, 80, 280])


def test_bootstrap_equals_the_naive_loop() -> None:
    one, two = hits(0, 0.6, clips=7), hits(1, 0.4, clips=7)
    draws = bootstrap(one, two, samples=20, seed=3)
    rng = np.random.default_rng(3)
    for draw in draws:
        clips, seeds = rng.integers(7, size=7), rng.integers(3, size=3)
        for column in range(6):
            scores = []
            for part in (one, two):
                by_seed = [
                    100 * sum(part.hits[s, c, column] for c in clips) / sum(part.queries[c, column] for c in clips)
                    for s in seeds
                ]
                scores.append(sum(by_seed) / 3)
            assert draw[column] == pytest.approx(scores[0] - scores[1])
        assert draw[6] == pytest.approx(sum(draw[:6]))


def test_intervals_cover_clips_and_seeds() -> None:
    # All clips alike: what is left is the seeds. All seeds alike: what is left is the clips.
    queries = np.ones((50, 6))
    seeds_only = Hits((0, 1, 2), np.stack([np.full((50, 6), value) for value in (0.2, 0.5, 0.8)]), queries)
    low, high = interval(bootstrap(seeds_only))[0]
    assert (low, high) == (pytest.approx(20), pytest.approx(80))
    clips_only = Hits((0, 1), np.stack([np.repeat([[0.0], [1.0]], 25, axis=0) * np.ones(6)] * 2), queries)
    low, high = interval(bootstrap(clips_only))[0]
    assert (low, high) == (pytest.approx(36, abs=2), pytest.approx(64, abs=2))  # 50 +- 1.96 sqrt(0.25 / 50)


def test_the_difference_to_oneself_is_nothing_and_to_others_is_paired() -> None:
    mine = hits(0, 0.5)
    assert (bootstrap(mine, mine, samples=50) == 0).all()
    better = Hits(mine.seeds, mine.hits + 0.1 * mine.queries, mine.queries)
    alone = [high - low for low, high in interval(bootstrap(better))]
    paired = [high - low for low, high in interval(bootstrap(better, mine))]
    assert paired[0] == pytest.approx(0, abs=1e-9)
    assert alone[0] > 3
    with pytest.raises(ValueError, match="same seeds and clips"):
        bootstrap(mine, mine.of([0, 1]))


def test_permutation_test_equals_all_sign_flips() -> None:
    one, two = hits(2, 0.9, clips=10), hits(3, 0.3, clips=10)
    for metric in ("t2v/R@5", "v2t/R@1", "rsum"):
        difference = (one.hits.mean(0) - two.hits.mean(0)) / one.queries.sum(0)
        each = difference.sum(1) if metric == "rsum" else difference[:, METRICS.index(metric)]
        reached = [
            abs(np.dot(signs, each)) >= abs(each.sum()) - 1e-12 for signs in itertools.product([-1, 1], repeat=10)
        ]
        assert permutation_p(one, two, metric) == pytest.approx(np.mean(reached), abs=0.01)
    assert permutation_p(one, one, "rsum") == 1.0


def test_permutation_test_is_honest_where_there_is_no_difference() -> None:
    values = [permutation_p(hits(2 * k, 0.5), hits(2 * k + 1, 0.5), "rsum", samples=199) for k in range(100)]
    assert 0.4 < np.mean(values) < 0.6
    assert 0.02 < np.mean(np.asarray(values) <= 0.1) < 0.2


@pytest.mark.parametrize(
    ("differences", "expected"),
    [([1, 1, 1, 1, 1], 2 / 32), ([1, 1, 1, 1, -1], 12 / 32), ([1, -1], 1.0), ([0, 0], 1.0), ([0, 2, 3], 0.5)],
)
def test_sign_test_by_hand(differences: list[float], expected: float) -> None:
    assert sign_test_p(differences) == pytest.approx(expected)


def test_sign_test_equals_the_enumeration() -> None:
    for wins in range(8):
        heads = Counter(sum(flips) for flips in itertools.product([0, 1], repeat=7))
        extreme = sum(number for count, number in heads.items() if max(count, 7 - count) >= max(wins, 7 - wins))
        assert sign_test_p([1] * wins + [-1] * (7 - wins)) == pytest.approx(min(1.0, extreme / 2**7))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_plots_have_a_row_a_variant_whatever_its_name() -> None:
    def height(names: list[str]) -> int:
        scores = {"t2v/R@1": {"mean": 20.0, "interval": [18.0, 22.0], "seeds": [19.0, 21.0]}}
        rows = [
            {"name": name, "scores": scores, "difference": {"to": names[0], "scores": scores} if place else None}
            for place, name in enumerate(names)
        ]
        table = {"variants": rows, "metric": "t2v/R@1", "dataset": "$x_$", "split": "test"}
        return Image.open(io.BytesIO(plot_png(table))).height

    assert height(["one"]) < height(["one", "$\\frac{$"]) < height(["a", "b", "a name of some length " * 3, "d"])
