"""What a report shows, as plain data of any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supportset.evaluate.results import Result


@dataclass(frozen=True)
class Clip:
    """A clip beside a query or a caption.

    Attributes
    ----------
    clip_id : str
    label : str
        Its place, rank or weight.
    caption : str
        What is said of it, for a clip without a picture too.
    picture : str
        ``data:`` URI of some frames side by side; empty: none at hand.
    right : bool
        Whether it is the clip that the query describes.
    weight : float or None
        Drawn as a bar, from 0 to 1.
    """

    clip_id: str
    label: str
    caption: str = ""
    picture: str = ""
    right: bool = False
    weight: float | None = None


@dataclass(frozen=True)
class Query:
    """A query or caption, and clips."""

    text: str
    note: str
    clips: Sequence[Clip]


@dataclass(frozen=True)
class Curve:
    """Values of a measurement over the steps of a training, as (steps, values)."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes.

    Attributes
    ----------
    title, unit : str
        ``unit`` labels the vertical axis.
    curves : sequence of Curve
        At most four.
    mark : (float, str), optional
        A step to mark, and what is there.
    level : (float, str), optional
        A value to mark, and what it means.
    log : bool
        Whether the vertical axis is logarithmic.
    """

    title: str
    unit: str
    curves: Sequence[Curve]
    mark: tuple[float, str] | None = None
    level: tuple[float, str] | None = None
    log: bool = False


@dataclass(frozen=True)
class Table:
    """A table of texts; columns named in ``numbers`` are aligned right."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page below the scores."""

    title: str
    text: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    queries: Mapping[str, Sequence[Query]] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    code: str = ""


@dataclass(frozen=True)
class Report:
    """All of a page.

    Attributes
    ----------
    title, summary : str
        Name of the run or model, and one sentence on it.
    facts : mapping
        Short facts below the title: dataset, protocol, ...
    scores : sequence of Result
        The first one is the headline, and is drawn; so are others of the same split of the same protocol.
    warnings : sequence of str
        What must be known before a score is believed.
    sections : sequence of Section
    made : str
        How, when and by which version the page was made.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    scores: Sequence[Result]
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    made: str = ""

    @classmethod
    def of_result(cls, result: Result, made: str = "") -> Report:
        """The page of scores of any model, of which nothing else is known."""
        facts = result.facts
        files = [each["file"] for each in (facts.get("embeddings") or {}).values() if isinstance(each, Mapping)]
        model = facts.get("encoder") or facts.get("run") or ", ".join(Path(file).name for file in files)
        unknown = [] if facts["leakage"] else ["what the split shares with the data that the model saw is not known"]
        return cls(
            title=result.name,
            summary=f"Scores of {facts['protocol']}, split {facts['split']} of {facts['dataset']}.",
            facts={
                "dataset": facts["dataset"],
                "protocol": facts["name"],
                **({"model": str(model)} if model else {}),
                **({"selected by": facts["selected_by"]} if facts.get("selected_by") else {}),
            },
            scores=[result],
            warnings=[f"{each}." for each in (*caveats(facts), *unknown, *facts.get("notes", ()))],
            made=made,
        )


def caveats(facts: Mapping[str, Any]) -> list[str]:
    """What must be known of an evaluation before its score is believed: missing clips, leakage."""
    found = []
    if facts["expected_gallery"] not in (None, facts["gallery"]):
        found.append(
            f"the gallery has {facts['gallery']:,} clips, the protocol asks for {facts['expected_gallery']:,}: not "
            "comparable"
        )
    if facts["missing"]:
        found.append(f"{facts['missing']:,} clips have no features")
    leak = facts["leakage"]
    if leak and leak["verbatim_queries"]:
        found.append(
            f"{leak['verbatim_queries']:,} of {leak['queries']:,} queries are word for word captions trained on"
        )
    if leak and leak["shared_source_clips"]:
        found.append(
            f"{leak['shared_source_clips']:,} of {leak['clips']:,} clips share their source video with a training clip"
        )
    return found
