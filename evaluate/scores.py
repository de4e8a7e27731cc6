"""Score embeddings or a score matrix on a split, missing clips included."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.counting import CosineScores, ScoreMatrix, Scores, count_wrong, count_wrong_groups, unit_rows
from supportset.evaluate.measures import average_precision, ndcg
from supportset.evaluate.positives import ABSENT, Positives
from supportset.evaluate.ranks import MISS, bootstrap_intervals, cosine_scores, rsum, summarize
from supportset.evaluate.splits import Split
from supportset.store.errors import UsageError

ALL, BEST, PARAGRAPH = "all-captions", "best-caption", "paragraph"
CONVENTIONS = {
    ALL: "every caption is a query; the other way, all captions are candidates and a clip's best-placed one counts",
    BEST: "only the best of a clip's captions counts: one query a clip; the other way, one candidate a clip",
    PARAGRAPH: "a clip's captions, joined by spaces, are one text",
}


@dataclass(frozen=True)
class RetrievalScores:
    """Ranks and scores of both directions.

    Attributes
    ----------
    t2v_ranks : (N,) float64
        One for each text query: the captions of the split in its order, or its clips that have captions.
    v2t_ranks : (V,) float64
        One for each clip that has captions: the rank of its best caption.
    v2t_clips : tuple of str
        The V clips.
    t2v, v2t : dict
        ``R@1``, ``R@5``, ``R@10``, ``R@50``, ``MdR``, ``MnR``.
    t2v_ids, t2v_clips : tuple of str
        Name of each text query, and its clip.
    ranking : dict
        ``nDCG@10`` and ``mAP`` of both directions, in percent; empty if they were not asked for.
    """

    t2v_ranks: NDArray[np.float64]
    v2t_ranks: NDArray[np.float64]
    v2t_clips: tuple[str, ...]
    t2v: dict[str, float]
    v2t: dict[str, float]
    t2v_ids: tuple[str, ...] = ()
    t2v_clips: tuple[str, ...] = ()
    ranking: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def rsum(self) -> float:
        """R@1 + R@5 + R@10 of both directions, at most 600; NaN where only one was scored."""
        return rsum(self.t2v, self.v2t) if self.v2t else float("nan")

    def only_t2v(self) -> RetrievalScores:
        """Leave out the direction from video to text, where it was not scored."""
        ranking = {way: each for way, each in self.ranking.items() if way == "t2v"}
        return replace(self, v2t_ranks=self.v2t_ranks[:0], v2t_clips=(), v2t={}, ranking=ranking)

    def flat(self) -> dict[str, float]:
        """All scores in one level: ``t2v/R@1``, ..., ``rsum``."""
        flat = {f"{way}/{name}": value for way in ("t2v", "v2t") for name, value in getattr(self, way).items()}
        return flat | {"rsum": self.rsum}


class Embeddings:
    """Embeddings of both sides, compared by cosine.

    Parameters
    ----------
    video : (P, d) float
        Of ``split.present``, in order; may be a mapped file.
    text : (N, d) float
        Of ``split.captions``, in order.
    """

    def __init__(self, video: ArrayLike, text: ArrayLike) -> None:
        self.video, self.text = np.asanyarray(video), np.asanyarray(text)
        self.t2v: Scores = CosineScores(self.text, self.video)
        self.v2t: Scores = CosineScores(self.video, self.text)

    def forth(self) -> NDArray[np.floating]:
        """All scores of texts as queries, (N, P)."""
        return cosine_scores(unit_rows(self.text), unit_rows(self.video))

    def back(self) -> NDArray[np.floating]:
        """All scores of clips as queries, (P, N)."""
        return self.forth().T


class Matrix:
    """Scores that are given.

    Parameters
    ----------
    forth : (N, P) float
        A row a caption of ``split.captions``, a column a clip of ``split.present``; may be a mapped file.
    back : (P, N) float, optional
        Scores of clips as queries where they are others.
    """

    def __init__(self, forth: ArrayLike, back: ArrayLike | None = None) -> None:
        self._forth = np.asanyarray(forth)
        self._back = self._forth.T if back is None else np.asanyarray(back)
        self.t2v: Scores = ScoreMatrix(self._forth)
        self.v2t: Scores = ScoreMatrix(self._back)

    def forth(self) -> NDArray[np.floating]:
        """All scores of texts as queries, (N, P)."""
        return np.asarray(self._forth)

    def back(self) -> NDArray[np.floating]:
        """All scores of clips as queries, (P, N)."""
        return np.asarray(self._back)


Similarity = Embeddings | Matrix


def score_embeddings(split: Split, video: ArrayLike, text: ArrayLike) -> RetrievalScores:
    """Score embeddings of a split.

    A clip without features is a miss in both directions: for each of its captions, and as a query itself. Its captions
    remain candidates.

    Parameters
    ----------
    split : Split
        With at least one caption.
    video : (P, d) float
        Embeddings of ``split.present``, in order.
    text : (N, d) float
        Embeddings of ``split.captions``, in order.
    """
    return score(split, Embeddings(video, text))


def score(split: Split, similarity: Similarity, *, captions: str = ALL, measures: bool = False) -> RetrievalScores:
    """Score a split.

    Parameters
    ----------
    split : Split
        With at least one caption.
    similarity : Embeddings or Matrix
        Of ``split.captions`` and ``split.present``.
    captions : str
        How a clip's several captions count: a key of `CONVENTIONS`.
    measures : bool
        Also compute nDCG@10 and mAP: takes longer where clips have many captions.

    Raises
    ------
    UsageError
        An unknown convention, or a size other than the split's.
    """
    check_convention(captions)
    texts, clips = similarity.t2v.shape
    if (texts, clips) != (len(split.captions), len(split.present)):
        raise UsageError(
            f"scores of {texts:,} captions and {clips:,} clips do not fit split {split.name!r}: it has "
            f"{len(split.captions):,} captions and {len(split.present):,} clips"
        )
    number = {clip_id: i for i, clip_id in enumerate(split.clip_ids)}
    caption_group = np.asarray([number[caption.clip_id] for caption in split.captions], dtype=np.int64)
    video_group = np.asarray([number[clip_id] for clip_id in split.present], dtype=np.int64)
    captioned = np.unique(caption_group)
    queried = tuple(split.clip_ids[i] for i in captioned)
    # one right clip for each caption, absent or not; the captions of each clip
    column = np.full(len(split.clip_ids), ABSENT)
    column[video_group] = np.arange(len(video_group))
    own_clip = Positives.of_pairs(texts, np.arange(texts), column[caption_group])
    wrong, _ = count_wrong(similarity.t2v, own_clip)
    t2v_ranks = 1.0 + wrong
    v2t_ranks = np.full(len(split.clip_ids), MISS)
    ranking: dict[str, dict[str, float]] = {}
    if captions == BEST:
        best = np.full(len(split.clip_ids), MISS)
        np.minimum.at(best, caption_group, t2v_ranks)
        t2v_ranks, ids, of_clip, candidates = best[captioned], queried, queried, len(captioned)
        v2t_ranks[video_group] = _best_caption_ranks(similarity, caption_group, video_group)
    else:
        ids = tuple(caption.caption_id for caption in split.captions)
        of_clip, candidates = tuple(caption.clip_id for caption in split.captions), len(split.captions)
        own_captions = Positives.of_groups(video_group, caption_group)
        wrong, place = count_wrong(similarity.v2t, own_captions, every=measures)
        if measures:
            found = np.full(len(video_group), np.inf)
            np.minimum.at(found, own_captions.query, wrong)
            v2t_ranks[video_group] = 1.0 + found
            ranking["v2t"] = _measures(own_captions, wrong, place, len(captioned))
        else:
            v2t_ranks[video_group] = 1.0 + wrong
    v2t_ranks = v2t_ranks[captioned]
    if measures:
        ranking = {"t2v": _single(t2v_ranks), **(ranking or {"v2t": _single(v2t_ranks)})}
    return RetrievalScores(
        t2v_ranks,
        v2t_ranks,
        queried,
        summarize(t2v_ranks, len(split.clip_ids)),
        summarize(v2t_ranks, candidates),
        ids,
        of_clip,
        ranking,
    )


def check_convention(captions: str) -> None:
    """Raise UsageError for an unknown convention."""
    if captions not in CONVENTIONS:
        raise UsageError(f"captions convention {captions!r} is not one of {', '.join(CONVENTIONS)}")


def _best_caption_ranks(
    similarity: Similarity, caption_group: NDArray[np.int64], video_group: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Ranks of clips among clips, each scored by its best caption."""
    own = Positives.of_groups(video_group, caption_group)
    return 1.0 + count_wrong_groups(similarity.v2t, own, caption_group)


def _measures(
    positives: Positives, wrong: NDArray[np.float64], place: NDArray[np.float64], queries: int
) -> dict[str, float]:
    """Means in percent over all queries of the split, of which those of missing clips score 0."""
    return {
        "nDCG@10": float(100 * ndcg(positives, wrong, place).sum() / queries),
        "mAP": float(100 * average_precision(positives, wrong, place).sum() / queries),
    }


def _single(ranks: NDArray[np.float64]) -> dict[str, float]:
    """The same, where each query has one right candidate."""
    return {
        "nDCG@10": float(100 * np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean()),
        "mAP": float(100 * (1 / ranks).mean()),
    }


def intervals(split: Split, scores: RetrievalScores, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """95 % bootstrap intervals of the recalls of both directions, drawn by clip."""
    clips = scores.t2v_clips or tuple(caption.clip_id for caption in split.captions)
    ways = (("t2v", scores.t2v_ranks, clips), ("v2t", scores.v2t_ranks, scores.v2t_clips))
    return {way: bootstrap_intervals(ranks, of, seed=seed) if len(ranks) else {} for way, ranks, of in ways}
