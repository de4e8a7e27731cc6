"""Several right candidates: ranks, nDCG@10 and mAP against a naive oracle and against ir-measures."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, Success, nDCG

from supportset.evaluate.counting import CosineScores, ScoreMatrix, count_wrong, round_cosines, unit_rows
from supportset.evaluate.measures import average_precision, ndcg, within
from supportset.evaluate.positives import ABSENT, Positives

SCORES = [0.0, 0.25, 0.5, 1.0, math.nan, math.inf, -math.inf]


def naive_list(row: list[float], gains: dict[int, float]) -> list[float]:
    """The gains of a query's list, worst case at ties: candidates that are never found are left out."""

    def place(candidate: int) -> tuple[float, float]:
        score = row[candidate]
        right = candidate in gains
        if math.isnan(score) or score == math.inf:
            score = math.inf  # a wrong one counts against the model; a right one is never found
        return (-score, gains[candidate] if right else -1.0)

    found = [c for c in range(len(row)) if c not in gains or math.isfinite(row[c])]
    return [gains.get(candidate, 0.0) for candidate in sorted(found, key=place)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, list[dict[int, float]]]:
    queries, candidates = draw(st.integers(1, 5)), draw(st.integers(1, 13))
    row = st.lists(st.sampled_from(SCORES), min_size=candidates, max_size=candidates)
    scores = np.array(draw(st.lists(row, min_size=queries, max_size=queries)))
    pairs = st.dictionaries(st.integers(ABSENT, candidates - 1), st.sampled_from([1.0, 2.0, 3.0]), max_size=candidates)
    return scores, draw(st.lists(pairs, min_size=queries, max_size=queries))


def flat(gains: list[dict[int, float]]) -> Positives:
    rows = [(query, candidate, gain) for query, each in enumerate(gains) for candidate, gain in each.items()]
    return Positives.of_pairs(len(gains), [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


@settings(deadline=None)
@given(cases())
def test_measures_are_those_of_a_naive_list(case: tuple[np.ndarray, list[dict[int, float]]]) -> None:
    scores, gains = case
    positives = flat(gains)
    wrong, place = count_wrong(ScoreMatrix(scores), positives, every=True)
    best, _ = count_wrong(ScoreMatrix(scores), positives)
    for query, right in enumerate(gains):
        found = naive_list(scores[query].tolist(), {c: g for c, g in right.items() if c != ABSENT})
        at = [i for i, gain in enumerate(found, 1) if gain > 0]
        mine = wrong[positives.query == query]
        assert best[query] == min(mine, default=math.inf)
        assert 1 + best[query] == (at[0] if at else math.inf)
        precision = sum(hit / place for hit, place in enumerate(at, 1)) / len(right) if right else 0.0
        assert average_precision(positives, wrong, place)[query] == pytest.approx(precision)
        ideal = sum(g / math.log2(1 + i) for i, g in enumerate(sorted(right.values(), reverse=True)[:10], 1))
        gain = sum(g / math.log2(1 + i) for i, g in enumerate(found[:10], 1))
        assert ndcg(positives, wrong, place)[query] == pytest.approx(gain / ideal if right else 0.0)
        assert within(positives, wrong, place)[query] == pytest.approx(sum(i <= 10 for i in at) / 10)


def test_without_ties_results_are_those_of_trec_eval() -> None:
    rng = np.random.default_rng(3)
    texts, clips = rng.normal(size=(40, 16)), rng.normal(size=(60, 16))
    gains = [
        {int(c): float(rng.integers(1, 4)) for c in rng.choice(60, size=rng.integers(1, 9), replace=False)}
        for _ in texts
    ]
    positives = flat(gains)
    wrong, place = count_wrong(CosineScores(texts, clips), positives, every=True)
    best, _ = count_wrong(CosineScores(texts, clips), positives)
    cosines = unit_rows(texts) @ unit_rows(clips).T
    qrels = [ir_measures.Qrel(f"q{q}", f"d{c}", int(g)) for q, each in enumerate(gains) for c, g in each.items()]
    run = [ir_measures.ScoredDoc(f"q{q}", f"d{c}", float(cosines[q, c])) for q in range(40) for c in range(60)]
    theirs = ir_measures.calc_aggregate([nDCG @ 10, AP, Success @ 1, Success @ 5, Success @ 10], qrels, run)
    assert ndcg(positives, wrong, place).mean() == pytest.approx(theirs[nDCG @ 10])
    assert average_precision(positives, wrong, place).mean() == pytest.approx(theirs[AP])
    for cut in (1, 5, 10):
        assert (1 + best <= cut).mean() == pytest.approx(theirs[Success @ cut])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5), st.booleans())
def test_blocks_of_embeddings_count_what_exact_scores_count(seed: int, dim: int, distinct: int, close: bool) -> None:
    """Gallery rows are few directions, scaled and repeated, or apart by less than float32 resolves."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(distinct, dim))
    clips = directions[rng.integers(distinct, size=30)] * rng.choice([0.5, 1.0, 8.0], size=(30, 1))
    if close:
        clips = directions[:1] + rng.normal(size=(30, dim)) * 10.0 ** rng.uniform(-9, -3)
    clips[rng.integers(30)] = np.nan
    texts = rng.normal(size=(9, dim))
    right = Positives.of_pairs(
        9, np.repeat(np.arange(9), 3), np.stack([rng.permutation(30)[:3] for _ in texts]).ravel()
    )
    exact = round_cosines(np.array([[(unit_rows(t[None]) * unit_rows(c[None])).sum() for c in clips] for t in texts]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supportset.evaluate.counting._CANDIDATES", 7)
        patch.setattr("supportset.evaluate.counting._QUERIES", 4)
        patch.setattr("supportset.evaluate.counting._MANY", 2.0 if seed % 2 else 0.1)
        wrong, _ = count_wrong(CosineScores(texts, clips), right, every=True)
    theirs, _ = count_wrong(ScoreMatrix(exact), right, every=True)
    # two sums of the same products may round to neighbouring numbers, where scores are that close
    assert (np.isfinite(wrong) == np.isfinite(theirs)).all()
    finite = np.isfinite(wrong)
    near = np.abs(exact[:, None, :] - np.take_along_axis(exact, right.candidate.reshape(9, 3), 1)[..., None]) < 1e-6
    slack = near.sum(-1).ravel()
    assert (np.abs(wrong[finite] - theirs[finite]) <= slack[finite]).all()
    if not close:
        assert (wrong[finite] == theirs[finite]).all()


def test_a_mapped_gallery_is_read_in_blocks(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    np.save(tmp_path / "clips.npy", rng.normal(size=(9000, 6)).astype(np.float16))
    mapped = np.load(tmp_path / "clips.npy", mmap_mode="r")
    texts = rng.normal(size=(5, 6))
    right = Positives.of_pairs(5, range(5), [0, 5000, 8999, 17, ABSENT])
    ours, _ = count_wrong(CosineScores(texts, mapped), right)
    cosines = (unit_rows(texts) @ unit_rows(mapped).T).astype(np.float32)
    naive = [int((row >= row[c]).sum()) - 1 for row, c in zip(cosines, [0, 5000, 8999, 17], strict=False)]
    assert ours.tolist() == [*naive, math.inf]
