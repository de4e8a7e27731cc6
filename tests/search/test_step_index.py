"""The exact scan gives what a scan in full precision gives, and reads little to know it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.search.step_index import Codes, StepIndex
from supportset.store.errors import UsageError


def an_index(
    vectors: NDArray[np.floating], lengths: NDArray[np.int64], reads: list[int] | None = None, cuts: Sequence[int] = ()
) -> StepIndex:
    """An index whose exact vectors are those given."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def read(clips: NDArray[np.int64]) -> NDArray[np.floating]:
        if reads is not None:
            reads.append(len(clips))
        return np.concatenate([vectors[offsets[clip] : offsets[clip + 1]] for clip in clips])

    return StepIndex(segments(vectors, offsets, cuts), np.arange(len(lengths)), read)


def segments(vectors: NDArray[np.floating], offsets: NDArray[np.int64], cuts: Sequence[int]) -> list[dict[str, Any]]:
    """Codes of the clips, those before each cut in a segment of their own."""
    edges = [0, *cuts, len(offsets) - 1]
    return [
        {**vars(Codes.of(vectors[offsets[a] : offsets[b]])), "offsets": offsets[a : b + 1] - offsets[a]}
        for a, b in pairwise(edges)
    ]


def by_brute_force(
    vectors: NDArray[np.floating], lengths: NDArray[np.int64], queries: NDArray[np.floating], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best clips of each query from all scores."""
    scores = cosine_scores(unit_rows(queries), unit_rows(vectors))
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    best = np.maximum.reduceat(scores, np.cumsum(lengths) - lengths, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(best, order, axis=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    clips=st.integers(1, 40),
    dim=st.integers(1, 70),
    k=st.integers(1, 45),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    spread=st.sampled_from([1.0, 1e-3, 1e-6, 0.0]),
)
def test_the_best_are_those_of_a_scan_in_full_precision(
    seed: int, clips: int, dim: int, k: int, dtype: type, spread: float
) -> None:
    """Also where all vectors are nearly, or exactly, the same: then codes tell nothing, and exact scores decide."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, clips)
    vectors = (rng.standard_normal(dim) + spread * rng.standard_normal((lengths.sum(), dim))).astype(dtype)
    queries = rng.standard_normal((3, dim)).astype(np.float32)
    cuts = sorted(rng.integers(0, clips, rng.integers(0, 4)).tolist())
    found, scores = an_index(vectors, lengths, cuts=cuts).search(queries, k)
    expected, expected_scores = by_brute_force(vectors, lengths, queries, k)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    # BLAS sums a block in another order: only scores that differ by more than rounding decide the order
    wrong = found != expected
    assert (np.abs(scores - expected_scores)[wrong] <= 1e-6).all()


def test_only_clips_that_may_be_among_the_best_are_read() -> None:
    rng = np.random.default_rng(0)
    lengths = np.full(5000, 3)
    vectors = rng.standard_normal((15000, 256)).astype(np.float16)
    reads: list[int] = []
    an_index(vectors, lengths, reads).search(rng.standard_normal((1, 256)), 5)
    assert sum(reads) < 50


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, 300)
    vectors, queries = rng.standard_normal((lengths.sum(), 16)), rng.standard_normal((4, 16))
    whole = an_index(vectors, lengths).search(queries, 7)
    monkeypatch.setattr("supportset.search.step_index._BLOCK_BYTES", 50)
    for one, other in zip(an_index(vectors, lengths).search(queries, 7), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_clips_that_are_not_allowed_or_not_finite_are_never_returned() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[1, 1] = np.nan
    index = an_index(vectors, np.ones(4, np.int64))
    clips, _ = index.search(np.ones((1, 4)), 10, np.array([True, True, False, True]))
    assert clips.tolist() == [[0, 3]]
    clips, scores = index.search(np.ones((2, 4)), 10, np.zeros(4, bool))
    assert clips.shape == scores.shape == (2, 0)


def test_clips_are_chosen_from_the_segments_in_any_order_and_more_than_once() -> None:
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 4, 30)
    vectors, queries = rng.standard_normal((lengths.sum(), 8)), rng.standard_normal((3, 8))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    chosen = rng.integers(0, 30, 25)

    def read(clips: NDArray[np.int64]) -> NDArray[np.floating]:
        return np.concatenate([vectors[offsets[clip] : offsets[clip + 1]] for clip in chosen[clips]])

    index = StepIndex(segments(vectors, offsets, [4, 4, 19]), chosen, read)
    for allowed in (np.ones(25, bool), rng.random(25) < 0.5):
        numbers = np.flatnonzero(allowed)
        picked = np.concatenate([vectors[offsets[clip] : offsets[clip + 1]] for clip in chosen[numbers]])
        expected, expected_scores = by_brute_force(picked, lengths[chosen[numbers]], queries, 9)
        found, scores = index.search(queries, 9, allowed)
        np.testing.assert_array_equal(found, numbers[expected])  # of clips that are the same, the lower number
        np.testing.assert_array_equal(scores, expected_scores)


def test_the_best_of_some_clips_are_those_of_a_search_among_them() -> None:
    rng = np.random.default_rng(4)
    lengths = rng.integers(1, 9, 60)
    vectors, query = rng.standard_normal((lengths.sum(), 16)), rng.standard_normal((1, 16))
    vectors[:3] = np.nan
    index = an_index(vectors, lengths, cuts=[7, 31])
    for count, k in ((60, 5), (20, 20), (3, 7), (1, 1)):
        clips = np.sort(rng.permutation(60)[:count])
        expected = index.search(query, k, np.isin(np.arange(60), clips))
        found = index.best_of(unit_rows(query)[0], clips, k)
        np.testing.assert_array_equal(found[0], expected[0][0])
        np.testing.assert_array_equal(found[1], expected[1][0])


def test_many_queries_are_scanned_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    index = an_index(rng.standard_normal((40, 8)), np.full(20, 2))
    queries = rng.standard_normal((7, 8))
    whole = index.search(queries, 3)
    monkeypatch.setattr("supportset.search.step_index._BOUNDS_BYTES", 8 * 20 * 3)
    for one, other in zip(index.search(queries, 3), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_that_is_not_finite_does_not_hide_the_others_of_its_clip() -> None:
    vectors = np.array([[np.inf, 0.0], [0.0, 1.0], [1.0, 0.0]])
    clips, scores = an_index(vectors, np.array([2, 1])).search([[0.0, 1.0]], 2)
    assert clips.tolist() == [[0, 1]]
    np.testing.assert_allclose(scores, [[1.0, 0.0]], atol=1e-7)


def test_zeros_score_zero() -> None:
    index = an_index(np.array([[0.0, 0.0], [0.0, -1.0]]), np.ones(2, np.int64))
    clips, scores = index.search([[0.0, 1.0], [0.0, 0.0]], 2)
    assert clips.tolist() == [[0, 1], [0, 1]]
    np.testing.assert_allclose(scores, [[0.0, -1.0], [0.0, 0.0]], atol=1e-7)


def test_wrong_shapes_are_refused() -> None:
    index = an_index(np.eye(3), np.ones(3, np.int64))
    with pytest.raises(UsageError, match=r"queries of shape \(1, 2\), not \(Q, 3\)"):
        index.search(np.ones((1, 2)), 1)
    with pytest.raises(UsageError, match="not finite"):
        index.search([[np.nan, 0, 0]], 1)
    with pytest.raises(UsageError, match="do not divide 3 steps"):
        StepIndex([{**vars(Codes.of(np.eye(3))), "offsets": np.array([0, 3, 3])}], [0, 1], lambda clips: np.eye(3))
