"""What a split shares with the training clips, listed: sources, captions word for word or nearly, features."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.evaluate.splits import read_captions, source_videos
from supportset.store.errors import UsageError
from supportset.store.files import LocalFolder
from supportset.store.format.dataset import Caption, Dataset
from supportset.store.read.feature_set import FeatureSet

SIMILARITY, COSINE = 0.8, 0.98  # thresholds of near-duplicate captions and features

_WORD = re.compile(r"\w+")
_BLOCK = 1024  # clips compared at a time
_LISTED = ("shared_sources", "verbatim_captions", "near_captions", "near_features")  # as printed
_SIZES = ("train_clips", "train_captions", "clips", "queries")

Row = dict[str, Any]


@dataclass(frozen=True)
class Leakage:
    """What a split shares with the training split of its protocol.

    Attributes
    ----------
    dataset, protocol, train, split : str
        Names.
    sizes : dict
        ``train_clips``, ``train_captions``, ``clips``, ``queries``.
    shared_sources : list of dict
        A row each clip with the source video of a training clip.
    verbatim_captions : list of dict
        A row each query that is, character for character, a caption of a training clip.
    near_captions : list of dict
        A row each further query with a near-duplicate among the training captions: the most similar one.
    near_features : list of dict or None
        A row each clip with a near-duplicate among the training clips; None: features were not compared.
    rules : dict of str to str
        What counts, in words, by the name of the list.
    """

    dataset: str
    protocol: str
    train: str
    split: str
    sizes: Mapping[str, int]
    shared_sources: list[Row]
    verbatim_captions: list[Row]
    near_captions: list[Row]
    near_features: list[Row] | None
    rules: Mapping[str, str]

    @property
    def lists(self) -> dict[str, list[Row]]:
        """The lists that were made, by name."""
        return {name: rows for name in _LISTED if (rows := getattr(self, name)) is not None}

    def to_json(self, examples: int | None = None) -> dict[str, Any]:
        """Counts, rules and the rows of each list, at most ``examples`` of them."""
        return {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "train": self.train,
            "split": self.split,
            **self.sizes,
            **{
                name: {"rule": self.rules[name], "count": len(rows), "rows": rows[:examples]}
                for name, rows in self.lists.items()
            },
        }

    def describe(self) -> str:
        """Format the counts for people, with the first example of each."""
        sizes = self.sizes
        lines = [
            f"{self.protocol}, split {self.split}: {sizes['clips']:,} clips, {sizes['queries']:,} queries, beside "
            f"{sizes['train_clips']:,} training clips, {sizes['train_captions']:,} captions"
        ]
        for name, rows in self.lists.items():
            of = sizes["queries"] if name.endswith("captions") else sizes["clips"]
            lines.append(f"  {len(rows):>6,} of {of:,}  {self.rules[name]}")
            lines += [f"          such as {example}" for example in map(_example, rows[:1])]
        return "\n".join(lines)

    def write(self, out: str | Path) -> list[str]:
        """Write one CSV file a list and the counts into the folder ``PROTOCOL-SPLIT`` below ``out``; their paths."""
        stem = f"{self.protocol}-{self.split}"
        files = {f"{stem}/{name.replace('_', '-')}.csv": _csv(rows) for name, rows in self.lists.items()}
        counts = json.dumps(self.to_json(examples=0), indent=2, ensure_ascii=False) + "\n"
        files[f"{stem}/leakage.json"] = counts.encode("utf-8")
        LocalFolder(out).put({name: [content] for name, content in files.items()})
        return [str(Path(out) / name) for name in files]


def find_leakage(
    dataset: Dataset,
    protocol: str,
    split: str = "test",
    *,
    train: str = "train",
    similarity: float = SIMILARITY,
    features: FeatureSet | None = None,
    cosine: float = COSINE,
) -> Leakage:
    """List what a split shares with the training split.

    Parameters
    ----------
    dataset : Dataset
        The tables.
    protocol, split, train : str
        What is compared with what.
    similarity : float
        Captions are near-duplicates from this Jaccard index of their sets of words on, in (0, 1]. Words are runs of
        letters and digits after NFKC normalisation and case folding.
    features : FeatureSet, optional
        Compare also the clips' features, by the cosine of their means over the steps. Clips without features are left
        out.
    cosine : float
        Clips are near-duplicates from this cosine on.

    Raises
    ------
    UsageError
        An unknown name, an empty split, a threshold out of range.
    """
    if not 0 < similarity <= 1:
        raise UsageError(f"similarity {similarity:g}: give a number above 0 and at most 1")
    if not -1 <= cosine <= 1:
        raise UsageError(f"cosine {cosine:g}: give a number from -1 to 1")
    known, asked = (read_captions(dataset, protocol, name) for name in (train, split))
    if empty := [part.name for part in (known, asked) if not part.clip_ids]:
        raise UsageError(f"{dataset.name}: split {empty[0]!r} of protocol {protocol!r} has no clips")
    verbatim, others = _verbatim(known.captions, asked.captions)
    sizes = (len(known.clip_ids), len(known.captions), len(asked.clip_ids), len(asked.captions))
    return Leakage(
        dataset.name,
        protocol,
        train,
        split,
        dict(zip(_SIZES, sizes, strict=True)),
        _shared_sources(dataset, known.clip_ids, asked.clip_ids),
        verbatim,
        near_captions(known.captions, others, similarity),
        None if features is None else near_features(features, known.clip_ids, asked.clip_ids, cosine),
        {
            "shared_sources": "clips share their source video with a training clip",
            "verbatim_captions": "queries are, character for character, a training caption",
            "near_captions": f"further queries share their words with a training caption (Jaccard >= {similarity:g})",
            "near_features": f"clips have features like those of a training clip (cosine >= {cosine:g})",
        },
    )


def comparable(dataset: Dataset, protocol: str, *splits: str) -> bool:
    """Whether all these splits of a protocol have clips."""
    names = dataset.split_names(protocol)
    return all(split in names and dataset.split_clips(protocol, split) for split in splits)


def near_captions(train: Sequence[Caption], queries: Sequence[Caption], threshold: float) -> list[Row]:
    """Find the most similar training caption of each query, where the Jaccard index reaches the threshold.

    Exact, by prefix filtering (Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007): two sets of words as similar as
    that have a word in common among the rarest few of each.

    Returns
    -------
    list of dict
        ``caption_id``, ``clip_id``, ``text``, ``similarity``, ``train_caption_id``, ``train_clip_id``, ``train_text``.
    """
    least = Fraction(threshold).limit_denominator(10**6)
    known: dict[frozenset[str], Caption] = {}
    for caption in train:
        known.setdefault(_words(caption.text), caption)
    asked: dict[frozenset[str], list[Caption]] = defaultdict(list)
    for caption in queries:
        asked[_words(caption.text)].append(caption)
    frequency = Counter(word for words in (*known, *asked) for word in words)

    place = {word: number for number, word in enumerate(sorted(frequency, key=lambda word: (frequency[word], word)))}

    def rarest(words: frozenset[str]) -> list[str]:
        return sorted(words, key=place.__getitem__)[: len(words) - ceil(least * len(words)) + 1]

    having: dict[tuple[str, int], list[frozenset[str]]] = defaultdict(list)  # (word, number of words) -> sets
    for words in known:
        for word in rarest(words):
            having[word, len(words)].append(words)
    best: dict[str, tuple[float, Caption]] = {}
    for words, captions in asked.items():
        sizes = range(ceil(least * len(words)), floor(len(words) / least) + 1)
        candidates = set[frozenset[str]]().union(*(having.get((w, n), ()) for w in rarest(words) for n in sizes))
        similar = []
        for other in candidates:
            same = len(words & other)
            of = len(words) + len(other) - same
            if same * least.denominator >= of * least.numerator:
                similar.append((same / of, known[other].caption_id, known[other]))
        if similar:
            index, _, trained = max(similar, key=lambda each: each[:2])
            best |= {caption.caption_id: (index, trained) for caption in captions}
    return [
        _pair(caption, best[caption.caption_id][1], similarity=round(best[caption.caption_id][0], 4))
        for caption in queries
        if caption.caption_id in best
    ]


def near_features(features: FeatureSet, train: Sequence[str], clip_ids: Sequence[str], threshold: float) -> list[Row]:
    """Find the most similar training clip of each clip, where the cosine of the means reaches the threshold.

    Returns
    -------
    list of dict
        ``clip_id``, ``train_clip_id``, ``cosine``.
    """
    known, asked = ([clip_id for clip_id in each if clip_id in features] for each in (train, clip_ids))
    if not known or not asked:
        raise UsageError(f"{features.path}: has no features of the training split or of the split: run extract")
    found = []
    vectors = _means(features, known)
    for start in range(0, len(asked), _BLOCK):
        block = asked[start : start + _BLOCK]
        cosines = np.nan_to_num(_means(features, block) @ vectors.T, nan=-2.0)
        nearest = cosines.argmax(1)
        for clip_id, row, value in zip(block, nearest, cosines.max(1), strict=True):
            if value >= threshold:
                found.append({"clip_id": clip_id, "train_clip_id": known[row], "cosine": round(float(value), 4)})
    return found


def _means(features: FeatureSet, clip_ids: Sequence[str]) -> NDArray[np.float32]:
    """(N, d) means over the steps of each clip, of unit length."""
    blocks = []
    for start in range(0, len(clip_ids), _BLOCK):
        values, offsets = features.read(clip_ids[start : start + _BLOCK])
        sums = np.add.reduceat(values.astype(np.float32), offsets[:-1], axis=0)  # no clip is without steps
        blocks.append(unit_rows(sums).astype(np.float32))
    return np.concatenate(blocks)


def _shared_sources(dataset: Dataset, train: Iterable[str], clip_ids: Iterable[str]) -> list[Row]:
    source_of = source_videos(dataset)
    cut: dict[str, list[str]] = defaultdict(list)
    for clip_id in train:
        cut[source_of[clip_id]].append(clip_id)
    return [
        {"clip_id": clip_id, "source": source, "train_clip_ids": " ".join(cut[source])}
        for clip_id in clip_ids
        if (source := source_of[clip_id]) in cut
    ]


def _verbatim(train: Sequence[Caption], queries: Sequence[Caption]) -> tuple[list[Row], list[Caption]]:
    """Rows of the queries that are training captions, and the other queries."""
    said: dict[str, list[Caption]] = defaultdict(list)
    for caption in train:
        said[caption.text].append(caption)
    rows = [
        _pair(query, said[query.text][0], training_captions=len(said[query.text]))
        for query in queries
        if query.text in said
    ]
    return rows, [query for query in queries if query.text not in said]


def _pair(query: Caption, trained: Caption, **more: Any) -> Row:
    names = {"caption_id": query.caption_id, "clip_id": query.clip_id, "text": query.text}
    others = {"train_caption_id": trained.caption_id, "train_clip_id": trained.clip_id, "train_text": trained.text}
    return names | more | others


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _example(row: Row) -> str:
    if "text" in row:
        alike = "" if row["text"] == row["train_text"] else f" ~ {row['train_text']!r}"
        return f"{row['clip_id']}: {row['text']!r}{alike} of {row['train_clip_id']}"
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.items())


def _csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["clip_id"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")
