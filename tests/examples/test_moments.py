"""The measure of the example on films whose scores are known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from supportset.search.moments import Rule


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "moments.py"
    spec = importlib.util.spec_from_file_location("moments_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_overlap_and_rank_are_those_counted_by_hand(example: ModuleType) -> None:
    one, other, third = np.eye(3)
    steps = [np.stack([one, one, other, other, other, other]), np.stack([third] * 6)]
    films = example.Films(steps, np.stack([one, other]), np.array([0, 0]), [(0, 2), (3, 6)], ["a", "b"])
    exact = example.overlaps(films, example.by_rule(Rule(smooth_s=0)))
    np.testing.assert_allclose(exact, [1.0, 3 / 4])
    np.testing.assert_allclose(example.overlaps(films, example.best_step), [1 / 2, 0.0])
    assert example.film_ranks(films, lambda each: each).tolist() == [1.0, 1.0]
    assert example.film_ranks(films, lambda each: each[-1:]).tolist() == [2.0, 1.0]  # a tie counts against it


def test_the_rule_is_the_one_with_the_best_overlap(example: ModuleType) -> None:
    one, other = np.eye(2)
    steps = [np.stack([other] * 4 + [one] * 3 + [other] * 4)]
    films = example.Films(steps, one[None], np.array([0]), [(4, 7)], ["a"])
    assert example.overlaps(films, example.by_rule(example.choose_rule(films))).tolist() == [1.0]
