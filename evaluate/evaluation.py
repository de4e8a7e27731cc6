"""The result of an evaluation: scores, and everything that must be known to compare them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from supportset.evaluate.beside import NO_BANKS, Banks, Beside, beside
from supportset.evaluate.describe import describe
from supportset.evaluate.labels import LabelScores, score_labels
from supportset.evaluate.protocols import PROTOCOLS
from supportset.evaluate.scores import ALL, Embeddings, RetrievalScores, Similarity, intervals, score
from supportset.evaluate.scoring import PLAIN, Scoring
from supportset.evaluate.splits import Split
from supportset.store.files import LocalFolder, hash_parts

__all__ = ["Evaluation", "describe"]

TIE_RULE = "pessimistic: a wrong candidate with an equal score counts against the model; a miss has no rank"
INTERVAL = "95 %, percentile bootstrap over clips, 1,000 draws"


@dataclass(frozen=True)
class Evaluation:
    """Scores of any model on a split, with what they are scores of.

    Attributes
    ----------
    protocol, dataset : str
        Names.
    split : Split
        The gallery, its captions and the missing clips.
    scores : RetrievalScores
    expected : int or None
        Clips that the protocol asks for; None: it states no number.
    subject : mapping
        What was scored, as JSON: ``run``, ``model``, ``features``, ``text_features``, ... Enters the result as it is.
    selected_by : str, optional
        What chose the model: a validation score, the last epoch; None: nothing was trained or it is not known.
    leakage : dict, optional
        What the split shares with the training clips (`supportset.evaluate.splits.leakage`).
    prefix : str
        Of the names of the files: a dataset's name where the folder belongs to another dataset.
    captions : str
        How a clip's several captions count: a key of `supportset.evaluate.scores.CONVENTIONS`.
    gallery_list : str, optional
        The file that lists the gallery; None: the whole split.
    labels : LabelScores, optional
        The score with more right clips than each caption's own.
    beside : tuple of Beside
        Scores that were normalised over queries.

    Examples
    --------
    >>> import numpy as np
    >>> from supportset.store.format.dataset import Caption
    >>> split = Split("test", ("a", "b"), (Caption("1", "a", "x"), Caption("2", "b", "y")), frozenset({"b"}))
    >>> found = Evaluation.of_embeddings(split, np.eye(2)[:1], np.eye(2), protocol="pets", dataset="mine")
    >>> found.name, found.scores.t2v["R@1"]
    ('pets [1/2 clips, 1 missing counted as misses]', 50.0)
    """

    protocol: str
    dataset: str
    split: Split
    scores: RetrievalScores
    expected: int | None = None
    subject: Mapping[str, Any] = field(default_factory=dict)
    selected_by: str | None = None
    leakage: Mapping[str, int] | None = None
    prefix: str = ""
    captions: str = ALL
    gallery_list: str | None = None
    labels: LabelScores | None = None
    beside: tuple[Beside, ...] = ()

    @classmethod
    def of_embeddings(
        cls, split: Split, video: ArrayLike, text: ArrayLike, *, scoring: Scoring = PLAIN, **facts: Any
    ) -> Evaluation:
        """Score embeddings.

        Parameters
        ----------
        split : Split
            With at least one caption, as `Scoring.prepare` leaves it.
        video : (P, d) float
            Of ``split.present``, in order.
        text : (N, d) float
            Of ``split.captions``, in order.
        scoring : Scoring
            How captions count, and what stands beside.
        **facts
            The other attributes; ``protocol`` and ``dataset`` are needed.
        """
        return cls.of_similarity(split, Embeddings(video, text), scoring=scoring, **facts)

    @classmethod
    def of_similarity(
        cls, split: Split, similarity: Similarity, *, scoring: Scoring = PLAIN, banks: Banks = NO_BANKS, **facts: Any
    ) -> Evaluation:
        """Score embeddings or a matrix: see `of_embeddings`."""
        return cls(
            split=split,
            scores=score(split, similarity, captions=scoring.captions, measures=True),
            captions=scoring.captions,
            gallery_list=scoring.gallery,
            labels=None if scoring.relevance is None else score_labels(split, similarity, scoring.relevance),
            beside=tuple(beside(split, similarity, scoring.beside, captions=scoring.captions, banks=banks)),
            **facts,
        )

    @property
    def gallery(self) -> int:
        """Clips of the split, missing ones included."""
        return len(self.split.clip_ids)

    @property
    def complete(self) -> bool:
        """Whether no clip is missing and the gallery has the protocol's size."""
        return not self.split.missing and self.expected in (None, self.gallery) and not self._other_queries

    @property
    def expected_queries(self) -> int | None:
        """Queries that the protocol asks for; None: it states no number, or the score is of something else."""
        known = PROTOCOLS.get(self.protocol)
        return known.queries if known and self.split.name == "test" and self.captions == ALL else None

    @property
    def _other_queries(self) -> bool:
        """Whether the gallery has the protocol's size, but not as many queries."""
        expected = self.expected_queries
        return self.gallery == self.expected and expected not in (None, len(self.split.captions))

    @property
    def name(self) -> str:
        """The name of the score: the protocol, the split if it is not ``test``, and how the gallery differs."""
        title = self.protocol + ("" if self.split.name == "test" else f"/{self.split.name}")
        title += "" if self.captions == ALL else f", {self.captions}"
        if self.complete:
            return title
        missing, expected = len(self.split.missing), self.gallery if self.expected is None else self.expected
        parts = [f"{self.gallery - missing}/{expected} clips"]
        if missing:
            parts.append(f"{missing} missing counted as misses")
        if self.gallery != expected:
            parts.append("another gallery than the protocol's")
        if self._other_queries:
            parts.append(f"{len(self.split.captions)}/{self.expected_queries} queries")
        return f"{title} [{', '.join(parts)}]"

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
        parts = [self.prefix, self.protocol, self.split.name, "" if self.captions == ALL else self.captions]
        listed = Path(self.gallery_list).stem if self.gallery_list else ""
        return "-".join(part for part in [*parts, listed] if part)

    @cached_property
    def intervals(self) -> dict[str, dict[str, list[float]]]:
        """95 % intervals of the recalls of both directions."""
        return intervals(self.split, self.scores)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON: see `supportset.train.evaluate.evaluate` for the keys."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "split": self.split.name,
            "dataset": self.dataset,
            "gallery": self.gallery,
            "gallery_hash": hash_parts([f"{clip_id}\n".encode() for clip_id in sorted(self.split.clip_ids)]),
            "expected_gallery": self.expected,
            "gallery_complete": self.complete,
            "queries": len(self.scores.t2v_ranks),
            "expected_queries": self.expected_queries,
            "missing": len(self.split.missing),
            "captions": self.captions,
            "gallery_list": self.gallery_list,
            "tie_rule": TIE_RULE,
            "t2v": self.scores.t2v,
            "v2t": self.scores.v2t,
            "rsum": self.scores.rsum if self.scores.v2t else None,
            "ranking": self.scores.ranking,
            "interval": INTERVAL,
            "intervals": self.intervals,
            "selected_by": self.selected_by,
            "leakage": None if self.leakage is None else dict(self.leakage),
            "labels": None
            if self.labels is None
            else {"score": f"{self.name} + {self.labels.name}"} | self.labels.to_json(),
            "beside": [each.to_json() for each in self.beside],
            **self.subject,
        }

    def describe(self) -> str:
        """Format the result as a table for people."""
        return describe(self.to_json())

    def ranks_file(self) -> bytes:
        """Ranks of both directions as Parquet: one row a query; a null rank is a miss."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        ranks = np.concatenate([self.scores.t2v_ranks, self.scores.v2t_ranks])
        hit = np.isfinite(ranks)
        queries, clips = self.scores.t2v_ids, self.scores.v2t_clips
        table = pa.table(
            {
                "direction": ["t2v"] * len(queries) + ["v2t"] * len(clips),
                "query_id": [*queries, *clips],
                "clip_id": [*self.scores.t2v_clips, *clips],
                "rank": pa.array(np.where(hit, ranks, 0).astype(np.int64), mask=~hit),
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()

    def write(self, folder: str | Path) -> dict[str, Any]:
        """Write ``STEM.json`` and ``STEM-ranks.parquet`` into a folder, each complete or not at all.

        Returns
        -------
        dict
            `to_json`, and ``files``: the paths of both.
        """
        folder = Path(folder)
        scores, ranks = f"{self.stem}.json", f"{self.stem}-ranks.parquet"
        result = self.to_json() | {"files": {"scores": str(folder / scores), "ranks": str(folder / ranks)}}
        written = result | {"clips_without_features": sorted(self.split.missing)}
        text = json.dumps(written, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        LocalFolder(folder).put({ranks: [self.ranks_file()]})
        LocalFolder(folder).put({scores: [text.encode("utf-8")]})
        return result
