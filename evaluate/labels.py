"""Score a split by a relevance file, beside the score by the captions' own clips."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.counting import Scores, count_wrong
from supportset.evaluate.measures import average_precision, ndcg, within
from supportset.evaluate.positives import ABSENT, Positives
from supportset.evaluate.ranks import bootstrap_intervals, summarize
from supportset.evaluate.relevance import Relevance
from supportset.evaluate.scores import Similarity
from supportset.evaluate.splits import Split
from supportset.store.errors import UsageError


@dataclass(frozen=True)
class LabelScores:
    """Scores of a split by a relevance file.

    Attributes
    ----------
    name : str
        Of the file.
    facts : dict
        ``judged`` pairs of this split and gallery, ``added`` right pairs besides the captions' own, ``queries`` that
        have some, ``own_judged_wrong`` (kept as right), ``outside`` (judged pairs of other queries or clips).
    t2v, v2t : dict
        ``R@k``, ``MdR``, ``MnR``, ``nDCG@10``, ``mAP``; of t2v also ``judged@10``, the share of the first ten clips
        that were judged: the rest counts as wrong, so recalls are lower bounds.
    intervals : dict
        Of the recalls.
    """

    name: str
    facts: dict[str, int]
    t2v: dict[str, float]
    v2t: dict[str, float]
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def only_t2v(self) -> LabelScores:
        """Leave out the direction from video to text, where it was not scored."""
        return replace(self, v2t={}, intervals={"t2v": self.intervals["t2v"], "v2t": {}})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"name": self.name, **self.facts, "t2v": self.t2v, "v2t": self.v2t, "intervals": self.intervals}


def score_labels(split: Split, similarity: Similarity, relevance: Relevance) -> LabelScores:
    """Score a split with a relevance file: every caption is a query, its own clip stays right.

    Raises
    ------
    UsageError
        No judged query is a query of the split.
    """
    right, judged, facts = _match(split, relevance)
    column = {clip_id: place for place, clip_id in enumerate(split.present)}
    texts = [text for text, _, _ in right]
    clips = [clip for _, clip, _ in right]
    gains = [gain for _, _, gain in right]
    forth = Positives.of_pairs(len(split.captions), texts, [column.get(clip, ABSENT) for clip in clips], gains)
    t2v, t2v_ranks = _scores(similarity.t2v, forth, len(split.clip_ids))
    there = [(text, column[clip]) for text, clip in judged if clip in column]
    pool = Positives.of_pairs(len(split.captions), [text for text, _ in there], [place for _, place in there])
    t2v["judged@10"] = float(100 * within(pool, *count_wrong(similarity.t2v, pool, every=True)).mean())

    # The other way every clip with a right caption asks; a missing one finds nothing.
    asking = {clip_id: place for place, clip_id in enumerate(dict.fromkeys([*split.present, *clips]))}
    found = [text if clip in column else ABSENT for text, clip in zip(texts, clips, strict=True)]
    back = Positives.of_pairs(len(asking), [asking[clip] for clip in clips], found, gains)
    v2t, v2t_ranks = _scores(similarity.v2t, back, len(split.captions))
    names = [clip for clip, count in zip(asking, back.per_query(), strict=True) if count]
    bounds = {
        "t2v": bootstrap_intervals(t2v_ranks, [caption.clip_id for caption in split.captions]),
        "v2t": bootstrap_intervals(v2t_ranks, names),
    }
    return LabelScores(relevance.name, facts, t2v, v2t, bounds)


def _match(
    split: Split, relevance: Relevance
) -> tuple[list[tuple[int, str, float]], list[tuple[int, str]], dict[str, int]]:
    """Right pairs (number of the caption, clip, grade), judged pairs, and counts."""
    captions_of = Counter(caption.clip_id for caption in split.captions)
    clips, used = set(split.clip_ids), set()
    right, judged = [], []
    facts = dict.fromkeys(("judged", "added", "queries", "own_judged_wrong", "outside"), 0)
    for row, caption in enumerate(split.captions):
        own = caption.clip_id
        names = [caption.caption_id, " ".join(caption.text.split()), *([own] if captions_of[own] == 1 else [])]
        name = next((each for each in names if each in relevance.grades), "")
        used.add(name)
        grades = {clip: grade for clip, grade in relevance.grades.get(name, {}).items() if clip in clips}
        more = {clip: grade for clip, grade in grades.items() if grade > 0 and clip != own}
        facts["judged"] += len(grades)
        facts["added"] += len(more)
        facts["queries"] += bool(more)
        facts["own_judged_wrong"] += grades.get(own) == 0
        right += [(row, clip, grade) for clip, grade in {own: grades.get(own) or 1.0, **more}.items()]
        judged += [(row, clip) for clip in {own, *grades}]
    facts["outside"] = sum(
        query not in used or clip not in clips for query, grades in relevance.grades.items() for clip in grades
    )
    if not facts["judged"]:
        raise UsageError(
            f"{relevance.name}: none of its {len(relevance.grades):,} queries, such as "
            f"{next(iter(relevance.grades))!r}, is a caption's id or text in split {split.name!r} with a clip of the "
            "gallery"
        )
    return right, judged, facts


def _scores(scores: Scores, positives: Positives, candidates: int) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Scores and ranks of the queries that have a right candidate."""
    asked = positives.per_query() > 0
    wrong, place = count_wrong(scores, positives, every=True)
    best = np.full(positives.queries, np.inf)
    np.minimum.at(best, positives.query, wrong)
    ranks = 1.0 + best[asked]
    measures = {
        "nDCG@10": float(100 * ndcg(positives, wrong, place)[asked].mean()),
        "mAP": float(100 * average_precision(positives, wrong, place)[asked].mean()),
    }
    return summarize(ranks, candidates) | measures, ranks
