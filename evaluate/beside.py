"""Scores normalised over queries: dual softmax, QB-Norm, Sinkhorn. Only ever shown beside the raw score.

Each takes the scores of all queries at once, which a search engine that answers one query does not have; a table that
mixes them with raw scores compares two tasks. With a bank of other texts (or clips), such as the training captions,
each query is answered alone: the single-query variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.counting import unit_rows
from supportset.evaluate.ranks import cosine_scores
from supportset.evaluate.scores import Embeddings, Matrix, RetrievalScores, Similarity, score
from supportset.evaluate.splits import Split
from supportset.store.errors import UsageError

Scores = NDArray[np.float64]
LARGEST = 200_000_000  # scores of the whole matrix: 1.6 GB in float64

TEMPERATURE = 0.01  # CLIP's logit scale of 100
BETA, ACTIVE = 20.0, 1
ROUNDS = 10


def dual_softmax(scores: Scores, bank: Scores | None = None, temperature: float = TEMPERATURE) -> Scores:
    """Multiply each score by its share among all queries (Cheng et al., CAMoE, arXiv 2109.04290).

    Parameters
    ----------
    scores : (Q, G) float64
    bank : (B, G) float64, optional
        Scores of other queries; then the share of a query is among itself and these.
    temperature : float
        Of the softmax over queries.
    """
    logits = scores / temperature
    total = _logsumexp(logits)[None, :] if bank is None else np.logaddexp(_logsumexp(bank / temperature), logits)
    return scores * np.exp(logits - total)


def qb_norm(scores: Scores, bank: Scores | None = None, beta: float = BETA, active: int = ACTIVE) -> Scores:
    """Inverted softmax for queries whose best candidate is a hub (Bogolin et al., QB-Norm, CVPR 2022).

    A hub is among the ``active`` best candidates of a query of the bank. The other queries keep their scores. Results
    are logarithms, so only the order of a row's scores means something.
    """
    others = scores if bank is None else bank
    hubs = np.unique(np.argpartition(-others, active - 1, axis=1)[:, :active])
    hubby = np.isin(scores.argmax(axis=1), hubs)[:, None]
    return np.where(hubby, beta * scores - _logsumexp(beta * others)[None, :], beta * scores)


def sinkhorn(
    scores: Scores, bank: Scores | None = None, temperature: float = TEMPERATURE, rounds: int = ROUNDS
) -> Scores:
    """Scale rows and columns alternately to equal sums (entropic transport with equal masses; Cuturi, 2013).

    Results are logarithms. With a bank, the columns' scales are those of the bank.
    """
    logits = (scores if bank is None else bank) / temperature
    column = np.zeros(logits.shape[1])
    for _ in range(rounds):
        row = -_logsumexp((logits + column).T)
        column = -_logsumexp(logits + row[:, None])
    return scores / temperature + column


def _logsumexp(logits: Scores) -> Scores:
    """Over the rows, for each column: (G,)."""
    top = logits.max(axis=0)
    total: Scores = top + np.log(np.exp(logits - top).sum(axis=0))
    return total


@dataclass(frozen=True)
class Normalisation:
    """One of the above with its name and what it is set to."""

    says: str
    apply: Callable[..., Scores]
    settings: Mapping[str, float]


NORMALISATIONS = {
    "dsl": Normalisation("dual softmax", dual_softmax, {"temperature": TEMPERATURE}),
    "qb-norm": Normalisation("querybank normalisation", qb_norm, {"beta": BETA, "active": ACTIVE}),
    "sinkhorn": Normalisation("Sinkhorn", sinkhorn, {"temperature": TEMPERATURE, "rounds": ROUNDS}),
}


@dataclass(frozen=True, eq=False)
class Banks:
    """Embeddings of texts that are no queries, and of clips that are not in the gallery; (B, d) each, or None."""

    text: NDArray[np.floating] | None = None
    video: NDArray[np.floating] | None = None


NO_BANKS = Banks()


@dataclass(frozen=True)
class Beside:
    """A score that stands beside the raw one.

    Attributes
    ----------
    name : str
        A key of `NORMALISATIONS`.
    scores : RetrievalScores
    bank : dict, optional
        Size of the bank of each direction; None: it used all queries at once.
    """

    name: str
    scores: RetrievalScores
    bank: Mapping[str, int] | None = None

    @property
    def label(self) -> str:
        """Its name with what it used."""
        used = "uses all queries at once" if self.bank is None else "one query at a time, with a bank"
        return f"{NORMALISATIONS[self.name].says} ({used})"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "label": self.label,
            "uses_all_queries_at_once": self.bank is None,
            "bank": None if self.bank is None else dict(self.bank),
            "settings": dict(NORMALISATIONS[self.name].settings),
            "t2v": self.scores.t2v,
            "v2t": self.scores.v2t,
            "rsum": self.scores.rsum,
        }


def beside(
    split: Split,
    similarity: Similarity,
    names: Iterable[str],
    *,
    captions: str,
    banks: Banks = NO_BANKS,
) -> list[Beside]:
    """Compute normalised scores of a split.

    Parameters
    ----------
    split, similarity, captions
        As for `supportset.evaluate.scores.score`.
    names : iterable of str
        Keys of `NORMALISATIONS`.
    banks : Banks
        Of the single-query variants. If one is given, a direction without a bank keeps its raw scores.

    Raises
    ------
    UsageError
        An unknown name; more scores than fit into memory; a bank beside a score matrix.
    """
    chosen = list(names)
    for name in chosen:
        if name not in NORMALISATIONS:
            raise UsageError(f"normalisation {name!r} is not one of {', '.join(NORMALISATIONS)}")
    texts, clips = similarity.t2v.shape
    if chosen and texts * clips > LARGEST:
        raise UsageError(
            f"{', '.join(chosen)}: {texts:,} x {clips:,} scores do not fit into memory at once (at most {LARGEST:,})"
        )
    banked = banks.text is not None or banks.video is not None
    if banked and not isinstance(similarity, Embeddings):
        raise UsageError("a bank of embeddings needs embeddings to score, not a score matrix")
    raw, found = similarity.forth().astype(np.float64), []
    for name in chosen:
        apply = NORMALISATIONS[name].apply
        if banked:
            assert isinstance(similarity, Embeddings)
            forth = raw if banks.text is None else _finite(apply, raw, _cosines(banks.text, similarity.video))
            back = raw.T if banks.video is None else _finite(apply, raw.T, _cosines(banks.video, similarity.text))
        else:
            forth, back = _finite(apply, raw), _finite(apply, raw.T)
        bank = {way: len(each) for way, each in (("t2v", banks.text), ("v2t", banks.video)) if each is not None}
        scores = score(split, Matrix(forth, back), captions=captions)
        found.append(Beside(name, scores, bank if banked else None))
    return found


def _finite(apply: Callable[..., Scores], raw: Scores, bank: Scores | None = None) -> Scores:
    """Normalise; a score that is not finite stays as it is, and is as the lowest to the others."""
    finite = np.isfinite(raw)
    lowest = raw.min(initial=np.inf, where=finite)
    return np.where(finite, apply(np.where(finite, raw, lowest), bank), raw) if finite.any() else raw


def _cosines(bank: NDArray[np.floating], candidates: NDArray[np.floating]) -> Scores:
    return np.nan_to_num(cosine_scores(unit_rows(bank), unit_rows(candidates)).astype(np.float64), nan=-1.0)
