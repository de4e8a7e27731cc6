"""Scores that are normalised over queries: what they compute, and that a bank makes them answer one query alone."""

from __future__ import annotations

import numpy as np
import pytest

from supportset.evaluate.beside import NORMALISATIONS, Banks, beside, dual_softmax, qb_norm, sinkhorn
from supportset.evaluate.scores import ALL, Embeddings, Matrix, score
from supportset.evaluate.splits import Split
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption


def test_dual_softmax_by_hand() -> None:
    scores = np.array([[0.5, 0.6], [0.1, 0.7]])
    prior = np.exp(scores / 0.5) / np.exp(scores / 0.5).sum(axis=0)
    assert dual_softmax(scores, temperature=0.5) == pytest.approx(scores * prior)


def test_qb_norm_leaves_queries_alone_whose_best_is_no_hub() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.2, 0.1, 0.8]])
    bank = np.array([[0.9, 0.2, 0.1], [0.8, 0.0, 0.3]])  # clip 0 is the best of all
    found = qb_norm(scores, bank, beta=2.0)
    assert found[0] == pytest.approx(np.log(np.exp(2 * scores[0]) / np.exp(2 * bank).sum(axis=0)))
    assert found[1].argsort().tolist() == scores[1].argsort().tolist()


def test_sinkhorn_balances_rows_and_columns() -> None:
    scores = np.random.default_rng(0).uniform(size=(5, 5))
    plan = np.exp(sinkhorn(scores, temperature=0.5, rounds=200))
    plan /= plan.sum(axis=1, keepdims=True)
    assert plan.sum(axis=0) == pytest.approx(np.ones(5), abs=1e-3)


@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
def test_with_a_bank_a_query_is_answered_alone(name: str) -> None:
    rng = np.random.default_rng(1)
    scores, bank = rng.uniform(size=(6, 9)), rng.uniform(size=(20, 9))
    apply = NORMALISATIONS[name].apply
    together = apply(scores, bank)
    for query in range(6):
        assert apply(scores[query : query + 1], bank)[0] == pytest.approx(together[query])
    assert apply(scores)[0] != pytest.approx(apply(scores[:3])[0])  # without a bank the other queries matter


def hubby(seed: int = 0) -> tuple[Split, np.ndarray, np.ndarray]:
    """Pairs with a clip that is close to every text."""
    rng = np.random.default_rng(seed)
    clips = rng.normal(size=(40, 24))
    texts = clips + 1.2 * rng.normal(size=(40, 24))
    texts[:, 0], clips[:, 0] = 12.0, 0.0
    clips[::4, 0] = 6.0
    captions = tuple(Caption(f"c{i}", f"v{i}", "") for i in range(40))
    return Split("test", tuple(f"v{i}" for i in range(40)), captions, frozenset()), clips, texts


def test_they_lower_a_hub_and_stand_beside_the_raw_score() -> None:
    split, clips, texts = hubby()
    raw = score(split, Embeddings(clips, texts))
    found = beside(split, Embeddings(clips, texts), sorted(NORMALISATIONS), captions=ALL)
    for each in found:
        assert each.scores.t2v["R@1"] > raw.t2v["R@1"], each.name
        assert each.label.endswith("(uses all queries at once)")
    banks = Banks(text=hubby(1)[2])
    for each in beside(split, Embeddings(clips, texts), ["qb-norm"], captions=ALL, banks=banks):
        assert each.scores.t2v["R@1"] > raw.t2v["R@1"]
        assert each.scores.v2t == raw.v2t
        assert each.to_json()["uses_all_queries_at_once"] is False
        assert each.to_json()["bank"] == {"t2v": 40}


@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
def test_a_collapsed_model_scores_nothing_under_any_of_them(name: str) -> None:
    split, _, _ = hubby()
    found = beside(split, Matrix(np.full((40, 40), 0.3, np.float32)), [name], captions=ALL)[0]
    assert found.scores.t2v["R@1"] == found.scores.v2t["R@1"] == 0.0


def test_a_broken_embedding_stays_a_miss() -> None:
    split, clips, texts = hubby()
    clips[3] = np.nan
    for each in beside(split, Embeddings(clips, texts), sorted(NORMALISATIONS), captions=ALL):
        assert not np.isfinite(each.scores.t2v_ranks[3])


@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
def test_a_score_that_is_not_finite_is_none_to_the_others_whatever_their_scale(name: str) -> None:
    """As logarithms of probabilities are, all far below -1."""
    split, clips, texts = hubby()
    scores = (texts @ clips.T - 5000).astype(np.float64)
    lowest = scores.copy()
    scores[7, 5], lowest[7, 5] = -np.inf, scores.min()
    found, expected = (beside(split, Matrix(each), [name], captions=ALL)[0].scores for each in (scores, lowest))
    np.testing.assert_array_equal(np.delete(found.t2v_ranks, 7), np.delete(expected.t2v_ranks, 7))
    assert not np.isfinite(beside(split, Matrix(scores * np.nan), [name], captions=ALL)[0].scores.t2v_ranks).any()


def test_wrong_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    split, clips, texts = hubby()
    with pytest.raises(UsageError, match="normalisation 'csls' is not one of dsl, qb-norm, sinkhorn"):
        beside(split, Embeddings(clips, texts), ["csls"], captions=ALL)
    with pytest.raises(UsageError, match="a bank of embeddings needs embeddings"):
        beside(split, Matrix(texts @ clips.T), ["dsl"], captions=ALL, banks=Banks(text=texts))
    monkeypatch.setattr("supportset.evaluate.beside.LARGEST", 100)
    with pytest.raises(UsageError, match="40 x 40 scores do not fit into memory"):
        beside(split, Embeddings(clips, texts), ["dsl"], captions=ALL)
