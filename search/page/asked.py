"""What a visitor asks for, as the address of the page says it: the form's fields are its parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlencode

from supportset.search.query import Query, Term, parse_query
from supportset.store.errors import UsageError

FIRST = 24  # results, and so many more each time
MOST = 192
MOST_FILTERS, MOST_EXAMPLES, LONGEST = 20, 10, 2000
LATEST = 1e7  # second of a video
LONGEST_FILTER = 200  # characters of its name, and of its value
_EXAMPLE = re.compile(
    r"(?P<weight>[+-]?\d+(?:\.\d+)?)\*(?P<id>.+?)(?:@(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?))?"
)

By = Literal["clip", "moment"]


@dataclass(frozen=True)
class Example:
    """A moment of a library, or an uploaded file, that results are to be like or unlike.

    Attributes
    ----------
    kind : {"like", "file"}
        Its parameter: ``like=1*CLIP@START-END`` or ``file=1*ID``.
    id : str
        A clip, or the id that the server gave to an upload.
    weight : float
        Below 0: unlike.
    start_s, end_s : float or None
        Seconds of the clip's file; None: the whole clip.
    """

    kind: Literal["like", "file"]
    id: str
    weight: float = 1.0
    start_s: float | None = None
    end_s: float | None = None

    def __str__(self) -> str:
        part = "" if self.start_s is None else f"@{self.start_s:.2f}-{self.end_s:.2f}"
        return f"{self.weight:g}*{self.id}{part}"


@dataclass(frozen=True)
class Asked:
    """The state of the form.

    Attributes
    ----------
    library : str
        Empty: the first one.
    text, without : str
        What is to be seen, and what is not.
    by : {"moment", "clip"}
    examples : tuple of Example
    filters : dict of str to str
        By field: ``NAME`` for text that a column contains or a value it has, ``NAME:min`` and ``NAME:max``.
    k : int
        Results.
    """

    library: str = ""
    text: str = ""
    without: str = ""
    by: By = "moment"
    examples: tuple[Example, ...] = ()
    filters: dict[str, str] = field(default_factory=dict)
    k: int = FIRST

    @property
    def something(self) -> bool:
        """Whether there is anything to search for."""
        return bool(self.text or self.without or self.examples)

    @property
    def words(self) -> str:
        """The query in words, after a noun: for “beach”, like the example."""
        likes = sum(each.weight > 0 for each in self.examples)
        parts = [f"for “{self.text}”"] if self.text else []
        parts += [f"like the {'example' if likes == 1 else 'examples'}"] if likes else []
        return " and ".join(parts) or "for this query"

    def query(self) -> Query:
        """The query as search takes it; an upload is an ``image`` term with the id as its value.

        Raises
        ------
        UsageError
            Nothing that is to be found, only what is not; a file of this machine in the text.
        """
        terms = list(parse_query(self.text, files=False).terms) if self.text else []
        for each in self.examples:
            kind: Literal["moment", "image"] = "moment" if each.kind == "like" else "image"
            terms.append(Term(kind, each.id, each.weight, each.start_s, each.end_s))
        if self.without:
            terms.append(Term("text", self.without, -0.5))
        return Query(tuple(terms))

    def address(self, path: str = "/", **changes: object) -> str:
        """The address that asks this, or this with some fields changed."""
        asked = replace(self, **changes) if changes else self  # type: ignore[arg-type]
        pairs = [("lib", asked.library), ("q", asked.text), ("without", asked.without)]
        pairs += [("by", asked.by)] if asked.by != "moment" else []
        pairs += [(each.kind, str(each)) for each in asked.examples]
        pairs += [(f"f:{name}", value) for name, value in asked.filters.items()]
        pairs += [("k", str(asked.k))] if asked.k != FIRST else []
        written = urlencode([(name, value) for name, value in pairs if value], safe="*:@,/")
        return f"{path}?{written}" if written else path

    def changed(self, action: str) -> Asked:
        """The state after one of the form's buttons: ``drop 0``, ``flip 0``, ``drop-filter NAME``, ..."""
        verb, _, rest = action.partition(" ")
        examples = list(self.examples)
        at = int(rest) if rest.isdecimal() and int(rest) < len(examples) else None
        if verb == "drop" and at is not None:
            del examples[at]
        elif verb == "flip" and at is not None:
            examples[at] = replace(examples[at], weight=-examples[at].weight)
        filters = {name: value for name, value in self.filters.items() if verb != "clear-filters"}
        if verb == "drop-filter":
            filters.pop(rest, None)
        return replace(
            self, examples=tuple(examples), filters=filters, without="" if verb == "drop-without" else self.without
        )


def read_asked(pairs: Iterable[tuple[str, str]]) -> Asked:
    """Read the parameters of an address, or the fields of the form.

    Raises
    ------
    UsageError
        One that the page does not write.
    """
    values: dict[str, str] = {}
    examples: list[Example] = []
    filters: dict[str, str] = {}
    for name, value in pairs:
        value = value.strip()
        if name in ("like", "file"):
            examples.append(_read_example(name, value))  # type: ignore[arg-type]
        elif name.startswith("f:"):
            if value:
                filters[name[2:]] = value
        else:
            values[name] = value
    if (
        len(filters) > MOST_FILTERS
        or len(examples) > MOST_EXAMPLES
        or max(map(len, values.values()), default=0) > LONGEST
        or max(map(len, [*filters, *filters.values()]), default=0) > LONGEST_FILTER
    ):
        raise UsageError(
            f"too much: {MOST_FILTERS} filters of {LONGEST_FILTER} characters, {MOST_EXAMPLES} examples and "
            f"{LONGEST:,} characters are taken"
        )
    k = values.get("k") or str(FIRST)
    if not k.isdecimal() or not 1 <= int(k) <= MOST:
        raise UsageError(f"k={k}: give a number from 1 to {MOST}")
    by = values.get("by") or "moment"
    if by not in ("moment", "clip"):
        raise UsageError(f"by={by}: give moment or clip")
    asked = Asked(
        library=values.get("lib", ""),
        text=values.get("q", ""),
        without=values.get("without", ""),
        by="clip" if by == "clip" else "moment",
        examples=tuple(examples),
        filters=filters,
        k=int(k),
    )
    return asked.changed(values["do"]) if values.get("do") else asked


def _read_example(kind: Literal["like", "file"], text: str) -> Example:
    match = _EXAMPLE.fullmatch(text)
    weight = float(match["weight"]) if match else 0.0
    if match is None or weight == 0 or not math.isfinite(weight):
        raise UsageError(f"{kind}={text[:80]}: write WEIGHT*ID, or WEIGHT*ID@START-END in seconds")
    start, end = (None if match[name] is None else float(match[name]) for name in ("start", "end"))
    if end is not None and end > LATEST:
        raise UsageError(f"{kind}={text[:80]}: ends after {LATEST:g} s: give seconds of the video")
    return Example(kind, match["id"], weight, start, end)
