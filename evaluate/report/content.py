"""What a report shows, as plain data of any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Score:
    """One evaluation.

    Attributes
    ----------
    model : str
        What was scored, in a few words.
    result : mapping
        JSON of an `Evaluation`.
    ranks : dict of str to (Q,) float64
        Ranks of ``t2v`` and ``v2t``, infinite for a miss; empty where they are not known.
    baseline : bool
        Whether it is what the others are compared with.
    """

    model: str
    result: Mapping[str, Any]
    ranks: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    baseline: bool = False


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
    scores : sequence of Score
        The first one is the headline, and is drawn.
    warnings : sequence of str
        What must be known before a score is believed.
    sections : sequence of Section
    made : str
        How, when and by which version the page was made.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    scores: Sequence[Score]
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    made: str = ""
