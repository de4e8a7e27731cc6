"""The matrix on which four peers' scorers disagree: float32, rounded to bfloat16, duplicated columns, constant."""

from __future__ import annotations

import numpy as np
import pytest

from supportset.evaluate.ranks import ranks_of_scores, summarize
from supportset.evaluate.scores import Matrix, score
from supportset.evaluate.splits import Split
from supportset.store.format.dataset import Caption

SIZE = 300


def bfloat16(scores: np.ndarray) -> np.ndarray:
    """Round to the nearest of 8 significant bits, ties to even."""
    bits = scores.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.3 + 0.05 * (rng.normal(size=(SIZE, SIZE)) + 2.6 * np.eye(SIZE))).astype(np.float32)


def worst_case(scores: np.ndarray) -> list[int]:
    """A list sorted by score, and the right clip behind all that tie with it."""
    return [
        1 + sum(other >= row[own] for column, other in enumerate(row) if column != own)
        for own, row in enumerate(scores.tolist())
    ]


@pytest.mark.parametrize("case", ["float32", "bfloat16", "duplicated", "constant"])
def test_ranks_are_the_worst_case_in_each_of_the_peers_cases(case: str, scores: np.ndarray) -> None:
    given = {
        "float32": scores,
        "bfloat16": bfloat16(scores),
        "duplicated": np.repeat(scores[:, ::2], 2, axis=1),
        "constant": np.full_like(scores, 0.25),
    }[case]
    ranks = ranks_of_scores(given, range(SIZE), range(SIZE))
    assert ranks.tolist() == worst_case(given)
    captions = tuple(Caption(f"c{i}", f"v{i}", "") for i in range(SIZE))
    split = Split("test", tuple(f"v{i}" for i in range(SIZE)), captions, frozenset())
    found = score(split, Matrix(given))
    assert found.t2v_ranks.tolist() == worst_case(given)
    assert found.v2t_ranks.tolist() == worst_case(given.T)
    recall = summarize(ranks, SIZE)["R@1"]
    if case == "constant":
        assert recall == 0.0
    elif case == "duplicated":  # every clip has a twin that ties with it
        assert recall == 0.0
        assert summarize(ranks, SIZE)["R@5"] > 0
    else:
        assert 20 < recall < 80


def test_rounding_can_only_lower_recall(scores: np.ndarray) -> None:
    exact = ranks_of_scores(scores, range(SIZE), range(SIZE))
    rounded = ranks_of_scores(bfloat16(scores), range(SIZE), range(SIZE))
    assert (rounded >= exact).all()
    assert (rounded > exact).any()
