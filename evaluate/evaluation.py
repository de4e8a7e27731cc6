"""The result of an evaluation: scores, and everything that must be known to compare them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from supportset.evaluate.beside import NO_BANKS, Banks, Beside, beside
from supportset.evaluate.labels import LabelScores, score_labels
from supportset.evaluate.scores import ALL, CONVENTIONS, Embeddings, RetrievalScores, Similarity, intervals, score
from supportset.evaluate.scoring import PLAIN, Scoring
from supportset.evaluate.splits import Split
from supportset.store.files import LocalFolder, hash_parts

TIE_RULE = "pessimistic: a wrong candidate with an equal score counts against the model; a miss has no rank"
WAYS = {"t2v": "text to video", "v2t": "video to text"}
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
        return not self.split.missing and self.expected in (None, self.gallery)

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


def describe(result: Mapping[str, Any]) -> str:
    """Format the JSON of an `Evaluation` as a table for people."""
    gallery = f"{result['gallery']:,} clips"
    if result["expected_gallery"] not in (None, result["gallery"]):
        gallery += f" (the protocol asks for {result['expected_gallery']:,}: not comparable)"
    convention = "" if result["captions"] == ALL else f", {CONVENTIONS[result['captions']]}"
    lines = [
        *([f"score     {result['name']}"] if result["name"] != result["protocol"] else []),
        f"protocol  {result['protocol']}, split {result['split']} of {result['dataset']}",
        f"gallery   {gallery}" + (f", listed in {result['gallery_list']}" if result["gallery_list"] else ""),
        f"queries   {result['queries']:,} captions{convention}",
        f"missing   {result['missing']:,}"
        + (" clips without features: counted as misses" if result["missing"] else "")
        + (f"; the videos of {result['left_out']:,} are gone" if result.get("left_out") else ""),
        *([f"selected  {result['selected_by']}"] if result["selected_by"] else []),
        "",
        _row("", result["t2v"]),
    ]
    for way, name in WAYS.items():
        if not result[way]:
            lines.append(f"{name}: not scored")
            continue
        lines.append(_row(name, {key: f"{value:.1f}" for key, value in result[way].items()}))
        bounds = {key: "{:.1f}-{:.1f}".format(*pair) for key, pair in result["intervals"][way].items()}
        lines.append(_row("  95 %", bounds))
    lines += ["", "R@k in percent; equal scores count against us. Intervals: bootstrap over clips."]
    if result["ranking"]:
        lines.append(
            "; ".join(
                f"{name}: " + ", ".join(f"{key} {value:.1f}" for key, value in result["ranking"][way].items())
                for way, name in WAYS.items()
                if way in result["ranking"]
            )
        )
    lines += [*_describe_labels(result["labels"]), *_describe_beside(result)]
    lines += [f"note: {note}" for note in result.get("notes", ())]
    for key, of, words in (
        ("verbatim_queries", "queries", "queries are word for word training captions"),
        ("shared_source_clips", "clips", "clips share their source video with a training clip"),
    ):
        if result["leakage"] and result["leakage"][key]:
            lines.append(f"leakage: {result['leakage'][key]:,} of {result['leakage'][of]:,} {words}")
    return "\n".join(lines)


def _describe_labels(labels: Mapping[str, Any] | None) -> list[str]:
    if labels is None:
        return []
    lines = ["", f"{labels['score']}: {labels['added']:,} more right clips for {labels['queries']:,} captions"]
    for way, name in WAYS.items():
        if labels[way]:
            lines.append(f"  {name}: " + ", ".join(f"{key} {value:.1f}" for key, value in labels[way].items()))
    if labels["own_judged_wrong"]:
        lines.append(f"  {labels['own_judged_wrong']:,} captions' own clips were judged wrong: they stay right")
    return lines


def _describe_beside(result: Mapping[str, Any]) -> list[str]:
    if not result["beside"]:
        return []
    lines = ["", "Beside the raw score, and not to be compared with raw scores:"]
    for each in result["beside"]:
        for way, name in WAYS.items():
            shown = ", ".join(f"{key} {each[way][key]:.1f}" for key in ("R@1", "R@5", "R@10", "MdR"))
            lines.append(f"  {each['label']}, {name}: {shown}")
    return lines


def _row(name: str, cells: Iterable[str] | dict[str, str]) -> str:
    shown = cells.values() if name and isinstance(cells, dict) else cells
    return f"{name:<14}" + "".join(f"{cell:>12}" for cell in shown)
