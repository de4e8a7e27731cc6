"""Ranks and recalls against naive loops, and the tie rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from supportset.evaluate.ranks import (
    MISS,
    bootstrap_intervals,
    cosine_scores,
    ranks_of_scores,
    retrieval_ranks,
    rsum,
    summarize,
    unit_rows,
)


def naive_ranks(scores: np.ndarray, query_group: list[int], candidate_group: list[int]) -> list[float]:
    """One loop a sentence of the rule."""
    ranks = []
    for query, group in enumerate(query_group):
        right = [scores[query, c] for c, other in enumerate(candidate_group) if other == group]
        wrong = [scores[query, c] for c, other in enumerate(candidate_group) if other != group]
        finite = [score for score in right if math.isfinite(score)]
        if not finite:
            ranks.append(math.inf)
            continue
        ranks.append(1 + sum(math.isnan(score) or score >= max(finite) for score in wrong))
    return ranks


# Few different values, so that ties are the rule, and some that are no numbers.
tied = st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, math.nan, math.inf, -math.inf])


@settings(deadline=None)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=tied), st.data())
def test_ranks_are_those_of_the_naive_loop(scores: np.ndarray, data: st.DataObject) -> None:
    groups = st.integers(0, 3)
    query_group = data.draw(st.lists(groups, min_size=scores.shape[0], max_size=scores.shape[0]))
    candidate_group = data.draw(st.lists(groups, min_size=scores.shape[1], max_size=scores.shape[1]))
    assert ranks_of_scores(scores, query_group, candidate_group).tolist() == naive_ranks(
        scores, query_group, candidate_group
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.3, 1e-3])
def test_a_collapsed_model_scores_nothing_in_any_dtype(dtype: type, value: float) -> None:
    scores = np.full((30, 30), value, dtype)
    ranks = ranks_of_scores(scores, range(30), range(30))
    assert (ranks == 30).all()
    assert summarize(ranks, 30)["R@1"] == summarize(ranks, 30)["R@10"] == 0.0


def test_equal_embeddings_tie_where_their_score_is_near_zero() -> None:
    rng = np.random.default_rng(5)
    clips = rng.choice([-1.0, 1.0], size=(1, 48)).repeat(40, axis=0)
    texts = clips * rng.permuted(np.tile([-1.0, 1.0], (40, 24)), axis=1)  # cosines of 0, by sums of 48 terms
    texts = texts * rng.uniform(0.1, 10, size=(40, 1))
    assert (retrieval_ranks(texts, clips, range(40), range(40)) == 40).all()


@pytest.mark.parametrize("size", [2, 7, 33, 257])
@pytest.mark.parametrize("dim", [1, 5, 48, 513])
def test_equal_embeddings_tie_whatever_order_the_product_is_summed_in(size: int, dim: int) -> None:
    rng = np.random.default_rng(size * dim)
    clip = rng.normal(size=dim).astype(np.float32)
    clips = np.repeat(clip[None], size, axis=0)
    ranks = retrieval_ranks(rng.normal(size=(size, dim)), clips, range(size), range(size))
    assert (ranks == size).all()


@pytest.mark.parametrize("dim", [3, 64, 511])
def test_equal_embeddings_tie_at_zero_where_float32_is_finer_than_a_sum_is_exact(dim: int) -> None:
    rng = np.random.default_rng(dim)
    for _ in range(20):
        query, clip = rng.integers(-3, 4, (2, dim)).astype(np.float64)
        clip -= query @ clip / (query @ query) * query
        queries, clips = np.tile(query, (8, 1)), np.tile(clip, (8, 1))
        assert (retrieval_ranks(queries, clips, range(8), range(8)) == 8).all()
        assert (ranks_of_scores(cosine_scores(unit_rows(queries), unit_rows(clips)), range(8), range(8)) == 8).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts, clips = rng.normal(size=(57, 8)), rng.normal(size=(19, 8))
    group = rng.integers(19, size=57)
    whole = retrieval_ranks(texts, clips, group, range(19))
    expected = naive_ranks(unit_rows(texts) @ unit_rows(clips).T, group.tolist(), list(range(19)))
    assert whole.tolist() == expected
    scores = unit_rows(texts) @ unit_rows(clips).T
    for queries, candidates, pairs in ((5, 4, 3), (57, 1, 1), (1, 19, 100)):
        monkeypatch.setattr("supportset.evaluate.counting._QUERIES", queries)
        monkeypatch.setattr("supportset.evaluate.counting._CANDIDATES", candidates)
        monkeypatch.setattr("supportset.evaluate.counting._PAIRS", pairs)
        assert retrieval_ranks(texts, clips, group, range(19)).tolist() == expected
        assert ranks_of_scores(scores, group, range(19)).tolist() == expected


def test_the_best_placed_of_a_clips_captions_counts_and_its_other_captions_do_not_stand_before_it() -> None:
    # Captions 0 and 1 are of clip 0 and equal; caption 2, of clip 1, lies below both.
    scores = np.array([[0.9, 0.9, 0.5], [0.7, 0.2, 0.7]])
    assert ranks_of_scores(scores, [0, 1], [0, 0, 1]).tolist() == [1.0, 2.0]


def test_an_embedding_that_is_not_finite_is_a_miss_and_helps_nobody() -> None:
    clips = np.eye(3)
    texts = np.eye(3)
    clips[1] = np.nan
    ranks = retrieval_ranks(texts, clips, range(3), range(3))
    assert ranks.tolist() == [2.0, MISS, 2.0]
    clips[1] = [1e300, 0.0, math.inf]
    assert retrieval_ranks(texts, clips, range(3), range(3)).tolist() == [2.0, MISS, 2.0]


def test_summary_by_hand() -> None:
    scores = summarize([1, 2, 7, 12, MISS], candidates=20)
    assert scores == {
        "R@1": 20.0,
        "R@5": 40.0,
        "R@10": 60.0,
        "R@50": 80.0,
        "MdR": 7.0,
        "MnR": (1 + 2 + 7 + 12 + 21) / 5,
    }
    assert rsum(scores, scores) == 240.0


def test_a_miss_is_no_hit_even_where_the_gallery_is_smaller_than_the_cut() -> None:
    assert summarize([MISS, 1.0], candidates=3)["R@50"] == 50.0


def test_no_queries_are_no_score() -> None:
    with pytest.raises(ValueError, match="no queries"):
        summarize([], 3)


def test_bootstrap_draws_whole_clips() -> None:
    # Two clips of 500 captions each: one all right, one all wrong. By clip the recall is anything from 0 to 100;
    # drawn by caption it would be close to 50.
    ranks = np.array([1.0] * 500 + [MISS] * 500)
    interval = bootstrap_intervals(ranks, [0] * 500 + [1] * 500, samples=400)["R@1"]
    assert interval == [0.0, 100.0]


def test_bootstrap_agrees_with_the_binomial_and_repeats_itself() -> None:
    rng = np.random.default_rng(1)
    ranks = np.where(rng.random(1000) < 0.4, 1.0, 3.0)
    intervals = bootstrap_intervals(ranks, range(1000), seed=3)
    share = (ranks == 1).mean()
    half = 196 * math.sqrt(share * (1 - share) / 1000)
    assert intervals["R@1"] == pytest.approx([100 * share - half, 100 * share + half], abs=0.6)
    assert intervals["R@5"] == [100.0, 100.0]
    assert intervals == bootstrap_intervals(ranks, range(1000), seed=3)
    assert intervals != bootstrap_intervals(ranks, range(1000), seed=4)
