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
from numpy.typing import NDArray

from supportset.evaluate.scores import RetrievalScores, intervals, score_embeddings
from supportset.evaluate.splits import Split
from supportset.store.files import LocalFolder

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

    @classmethod
    def of_embeddings(
        cls, split: Split, video: NDArray[np.floating], text: NDArray[np.floating], **facts: Any
    ) -> Evaluation:
        """Score embeddings.

        Parameters
        ----------
        split : Split
            With at least one caption.
        video : (P, d) float
            Of ``split.present``, in order.
        text : (N, d) float
            Of ``split.captions``, in order.
        **facts
            The other attributes; ``protocol`` and ``dataset`` are needed.
        """
        return cls(split=split, scores=score_embeddings(split, video, text), **facts)

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
        return "-".join([*([self.prefix] if self.prefix else []), self.protocol, self.split.name])

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
            "expected_gallery": self.expected,
            "gallery_complete": self.complete,
            "queries": len(self.split.captions),
            "missing": len(self.split.missing),
            "tie_rule": TIE_RULE,
            "t2v": self.scores.t2v,
            "v2t": self.scores.v2t,
            "rsum": self.scores.rsum,
            "interval": INTERVAL,
            "intervals": self.intervals,
            "selected_by": self.selected_by,
            "leakage": None if self.leakage is None else dict(self.leakage),
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
        captions, clips = self.split.captions, self.scores.v2t_clips
        table = pa.table(
            {
                "direction": ["t2v"] * len(captions) + ["v2t"] * len(clips),
                "query_id": [caption.caption_id for caption in captions] + list(clips),
                "clip_id": [caption.clip_id for caption in captions] + list(clips),
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
    lines = [
        f"protocol  {result['protocol']}, split {result['split']} of {result['dataset']}",
        f"gallery   {gallery}",
        f"queries   {result['queries']:,} captions",
        f"missing   {result['missing']:,}"
        + (" clips without features: counted as misses" if result["missing"] else "")
        + (f"; the videos of {result['left_out']:,} are gone" if result.get("left_out") else ""),
        "",
        _row("", result["t2v"]),
    ]
    for way, name in (("t2v", "text to video"), ("v2t", "video to text")):
        lines.append(_row(name, {key: f"{value:.1f}" for key, value in result[way].items()}))
        bounds = {key: "{:.1f}-{:.1f}".format(*pair) for key, pair in result["intervals"][way].items()}
        lines.append(_row("  95 %", bounds))
    lines += ["", "R@k in percent; equal scores count against us. Intervals: bootstrap over clips."]
    for key, of, words in (
        ("verbatim_queries", "queries", "queries are word for word training captions"),
        ("shared_source_clips", "clips", "clips share their source video with a training clip"),
    ):
        if result["leakage"] and result["leakage"][key]:
            lines.append(f"leakage: {result['leakage'][key]:,} of {result['leakage'][of]:,} {words}")
    return "\n".join(lines)


def _row(name: str, cells: Iterable[str] | dict[str, str]) -> str:
    shown = cells.values() if name and isinstance(cells, dict) else cells
    return f"{name:<14}" + "".join(f"{cell:>12}" for cell in shown)
