"""Score embeddings on a split, missing clips included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import MISS, bootstrap_intervals, retrieval_ranks, rsum, summarize
from supportset.evaluate.splits import Split


@dataclass(frozen=True)
class RetrievalScores:
    """Ranks and scores of both directions.

    Attributes
    ----------
    t2v_ranks : (N,) float64
        One for each caption of the split, in its order.
    v2t_ranks : (V,) float64
        One for each clip that has captions: the rank of its best caption.
    v2t_clips : tuple of str
        The V clips.
    t2v, v2t : dict
        ``R@1``, ``R@5``, ``R@10``, ``R@50``, ``MdR``, ``MnR``.
    """

    t2v_ranks: NDArray[np.float64]
    v2t_ranks: NDArray[np.float64]
    v2t_clips: tuple[str, ...]
    t2v: dict[str, float]
    v2t: dict[str, float]

    @property
    def rsum(self) -> float:
        """R@1 + R@5 + R@10 of both directions, at most 600."""
        return rsum(self.t2v, self.v2t)

    def flat(self) -> dict[str, float]:
        """All scores in one level: ``t2v/R@1``, ..., ``rsum``."""
        flat = {f"{way}/{name}": value for way in ("t2v", "v2t") for name, value in getattr(self, way).items()}
        return flat | {"rsum": self.rsum}


def score_embeddings(split: Split, video: NDArray[np.floating], text: NDArray[np.floating]) -> RetrievalScores:
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
    number = {clip_id: i for i, clip_id in enumerate(split.clip_ids)}
    caption_group = np.asarray([number[caption.clip_id] for caption in split.captions], dtype=np.int64)
    video_group = np.asarray([number[clip_id] for clip_id in split.present], dtype=np.int64)
    captioned = np.unique(caption_group)

    t2v_ranks = retrieval_ranks(text, video, caption_group, video_group)
    v2t_ranks = np.full(len(split.clip_ids), MISS)
    v2t_ranks[video_group] = retrieval_ranks(video, text, video_group, caption_group)
    v2t_ranks = v2t_ranks[captioned]
    return RetrievalScores(
        t2v_ranks,
        v2t_ranks,
        tuple(split.clip_ids[i] for i in captioned),
        summarize(t2v_ranks, len(split.clip_ids)),
        summarize(v2t_ranks, len(split.captions)),
    )


def intervals(split: Split, scores: RetrievalScores, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """95 % bootstrap intervals of the recalls of both directions, drawn by clip."""
    return {
        "t2v": bootstrap_intervals(scores.t2v_ranks, [caption.clip_id for caption in split.captions], seed=seed),
        "v2t": bootstrap_intervals(scores.v2t_ranks, scores.v2t_clips, seed=seed),
    }
