"""Results of evaluations, read back from the files that `Evaluation.write` made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.evaluation import Evaluation
from supportset.evaluate.paired_tests import WAYS
from supportset.evaluate.ranks import MISS
from supportset.evaluate.scores import ALL
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.dataset import open_dataset

SAME = {
    "dataset": "dataset",
    "protocol": "protocol",
    "split": "split",
    "gallery": "number of clips in the gallery",
    "gallery_hash": "clips in the gallery",
    "captions": "captions convention",
}


@dataclass(frozen=True, eq=False)
class Direction:
    """Ranks of one direction: query, clip and rank, (Q,) each; `MISS` for a miss."""

    queries: tuple[str, ...]
    clips: tuple[str, ...]
    ranks: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Result:
    """An evaluation with its ranks.

    Attributes
    ----------
    name : str
        For tables.
    facts : dict
        The JSON of an `Evaluation`.
    ways : dict
        ``t2v`` and, where it was scored, ``v2t``.
    """

    name: str
    facts: dict[str, Any]
    ways: dict[str, Direction]

    @classmethod
    def of(cls, name: str, evaluation: Evaluation) -> Result:
        """Of an evaluation in memory."""
        scores = evaluation.scores
        ways = {
            "t2v": Direction(scores.t2v_ids, scores.t2v_clips, scores.t2v_ranks),
            "v2t": Direction(scores.v2t_clips, scores.v2t_clips, scores.v2t_ranks),
        }
        return cls(name, evaluation.to_json(), {way: each for way, each in ways.items() if len(each.ranks)})

    def places(self, way: str) -> NDArray[np.float64]:
        """Ranks with a miss behind the last candidate."""
        ranks = self.ways[way].ranks
        last = self.facts["gallery"] if way == "t2v" else self.facts["queries"]
        return np.minimum(ranks, last + 1)


def read_result(
    path: str | Path, protocol: str | None = None, split: str | None = None, dataset: str | None = None
) -> Result:
    """Read a result.

    Parameters
    ----------
    path : str or Path
        A run folder (its ``eval/``), a folder that ``eval --out`` wrote, or one of their JSON files.
    protocol, split, dataset : str, optional
        Which result, where a folder has several.

    Raises
    ------
    UsageError
        No result is there, or several fit.
    SupportsetError
        A file is damaged.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted([*path.glob("*.json"), *path.glob("eval/*.json")])
    wanted = {"protocol": protocol, "split": split, "dataset": dataset}
    found = []
    for file in files:
        facts = _read_json(file, strict=file == path)
        if "t2v" in facts and "files" in facts and all(value in (None, facts[key]) for key, value in wanted.items()):
            found.append((file, facts))
    if not found:
        asked = ", ".join(f"{key} {value!r}" for key, value in wanted.items() if value)
        raise UsageError(
            f"{path}: no result{f' of {asked}' if asked else ''} is there: run `supportset eval` for a run, or eval "
            "--out FOLDER for features without training and for embeddings"
        )
    if len(found) > 1:
        there = ", ".join(f"{facts['dataset']} {facts['name']}" for _, facts in found[:4])
        raise UsageError(f"{path}: has {len(found)} results ({there}): name one with --protocol, --split, --dataset")
    file, facts = found[0]
    facts = {"name": facts["protocol"], "captions": ALL} | facts  # results from before 0.3 do not say
    return Result(_name(path, file), facts, _read_ranks(file.with_name(f"{file.stem}-ranks.parquet")))


def caption_texts(result: Result, store: str | Path) -> dict[str, str]:
    """Texts of a result's captions from the tables of a store; empty if it has none of that dataset."""
    try:
        captions = open_dataset(store, str(result.facts["dataset"])).captions
    except SupportsetError:
        return {}
    return dict(zip(captions["caption_id"].to_pylist(), captions["text"].to_pylist(), strict=True))


def check_same(results: list[Result]) -> list[Result]:
    """Refuse results of other protocols, splits, galleries or queries; the results with their queries in one order.

    Where each clip has one query, queries of other names (caption ids and clip ids) are matched by clip.

    Raises
    ------
    UsageError
        Names both results and what differs.
    """
    first, *others = results
    for other in others:
        for key, words in SAME.items():
            here, there = first.facts.get(key), other.facts.get(key)
            if here != there and None not in (here, there):
                shown = "" if key == "gallery_hash" else f" ({here} and {there})"
                raise UsageError(f"{first.name} and {other.name} differ in {words}{shown}: they cannot be compared")
    return [first, *(_aligned(first, other) for other in others)]


def _aligned(first: Result, other: Result) -> Result:
    ways = {}
    for way, mine in first.ways.items():
        theirs = other.ways.get(way)
        if theirs is None:
            continue
        names, wanted = theirs.queries, mine.queries
        if set(names) != set(wanted) and len(set(mine.clips)) == len(mine.clips):
            names, wanted = theirs.clips, mine.clips
        row = {name: place for place, name in enumerate(names)}
        if len(row) != len(names) or set(names) != set(wanted):
            odd = next(iter(set(names) ^ set(wanted)), names[0])
            raise UsageError(
                f"{first.name} and {other.name} were asked other queries ({len(wanted):,} and {len(names):,}; {odd!r} "
                "is in one alone): they cannot be compared"
            )
        ways[way] = Direction(mine.queries, mine.clips, theirs.ranks[[row[name] for name in wanted]])
    return Result(other.name, other.facts, ways)


def _name(path: Path, file: Path) -> str:
    given = path if path != file else file.parent
    return (given.name if given.name != "eval" else given.parent.name) or str(path)


def _read_json(file: Path, strict: bool) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if strict:
            raise UsageError(f"{file}: is no JSON of an evaluation ({error})") from None
        raise SupportsetError(f"{file}: cannot be read ({error}): evaluate again") from None
    return tree if isinstance(tree, dict) else {}


def _read_ranks(file: Path) -> dict[str, Direction]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with open(file, "rb") as content:  # pyarrow takes no path that is not UTF-8
            table = pq.read_table(content)
        ways = {}
        for way in WAYS:
            rows = table.filter(pc.equal(table["direction"], way))
            ranks = rows["rank"].to_numpy().astype(np.float64)
            missed = rows["rank"].is_null().to_numpy()
            queries, clips = (tuple(rows[name].to_pylist()) for name in ("query_id", "clip_id"))
            if len(rows):
                ways[way] = Direction(queries, clips, np.where(missed, MISS, ranks))
        return ways
    except (OSError, pa.ArrowException, KeyError) as error:
        raise SupportsetError(f"{file}: cannot be read ({error}): evaluate again") from None
