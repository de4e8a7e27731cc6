"""A query: texts, pictures, videos and moments of clips, each with a weight.

The written form joins terms with ``+`` and ``-``, each after an optional weight: ``"beach" + 0.5*image:photo.jpg -
"people"``. Texts stand in double quotes. The other terms are ``image:FILE``, ``video:FILE`` and ``moment:CLIP_ID``; the
last two may end in ``@START-END``, in seconds of the file. A name with blanks has quotes: ``image:"my photo.jpg"``.

A query that does not begin with a term is a plain text, taken as it is: ``C++ - tutorial``, ``a "wet" dog``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from supportset.store.errors import UsageError

Kind = Literal["text", "image", "video", "moment"]

MOST_TERMS = 20  # of a query of a stranger
_SHORTEST = 1e-3  # length of a combination of unit vectors below which its direction says nothing
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_TERM = re.compile(
    rf"(?:(?P<weight>{_NUMBER})\s*\*\s*)?(?:(?P<kind>image|video|moment):)?"
    rf'(?:(?P<quoted>"(?:[^"\\]|\\.)*"|“[^”]*”)(?P<part>@\S*)?|(?<=:)(?P<bare>[^\s"“]\S*))(?=[\s+-]|$)'
)
_PART = re.compile(rf"@({_NUMBER})-({_NUMBER})$")
_SIGN = re.compile(r"\s*([+-])\s*")


@dataclass(frozen=True)
class Term:
    """One part of a query.

    Attributes
    ----------
    kind : {"text", "image", "video", "moment"}
        What ``value`` is.
    value : str
        The text; the path of a file on this machine; or a clip of the dataset.
    weight : float
        Not 0; below 0 for what is not wanted.
    start_s, end_s : float or None
        Of a video or moment: its part, in seconds of the file. None: all of it.

    Raises
    ------
    UsageError
        A blank text, a weight or part that is none.
    """

    kind: Kind
    value: str
    weight: float = 1.0
    start_s: float | None = None
    end_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("text", "image", "video", "moment"):
            raise UsageError(f"query: kind {self.kind!r} is not one of text, image, video, moment")
        if not self.value.strip():
            raise UsageError(f"the query {self.value!r} is blank: describe a clip")
        try:
            self.value.encode("utf-8", "strict" if self.kind == "text" else "surrogateescape")
        except UnicodeEncodeError:
            raise UsageError(
                f"the query {self.value!r} is not UTF-8 text: set the terminal's encoding to UTF-8"
            ) from None
        if not math.isfinite(self.weight) or self.weight == 0:
            raise UsageError(f"query: weight {self.weight:g} of {self.value!r}: give a number that is not 0")
        start, end = self.start_s, self.end_s
        if start is None and end is None:
            return
        if self.kind in ("text", "image"):
            raise UsageError(f"query: {self.kind} {self.value!r} has no seconds: leave start and end out")
        if start is None or end is None or not 0 <= start < end or not math.isfinite(end):
            raise UsageError(f"query: {self.value!r} from {start} to {end} s: give a start, and an end after it")

    def __str__(self) -> str:
        value = '"' + re.sub(r'(["\\])', r"\\\1", self.value) + '"'
        part = "" if self.start_s is None else f"@{self.start_s:.12g}-{self.end_s:.12g}"
        return value if self.kind == "text" else f"{self.kind}:{value}{part}"


@dataclass(frozen=True)
class Query:
    """Weighted terms; their embeddings, each of unit length, are summed, and the sum is scaled to unit length.

    Attributes
    ----------
    terms : tuple of Term
        At least one has a weight above 0.

    Raises
    ------
    UsageError
        There is no term to look for.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not any(term.weight > 0 for term in self.terms):
            raise UsageError('the query only says what not to find: add what to find, as \'"street" - "people"\'')

    def __str__(self) -> str:
        """The written form, which `parse_query` reads; a single text stays as it is."""
        if len(self.terms) == 1 and self.terms[0].kind == "text" and parse_query(self.terms[0].value) == self:
            return self.terms[0].value
        words = ""
        for term in self.terms:
            sign = "-" if term.weight < 0 else "+"
            words += f" {sign} " if words else "- " if sign == "-" else ""
            words += (f"{abs(term.weight):.12g}*" if abs(term.weight) != 1 else "") + str(term)
        return words

    @property
    def files(self) -> list[Term]:
        """The terms that name a file of this machine."""
        return [term for term in self.terms if term.kind in ("image", "video")]

    @property
    def examples(self) -> list[Term]:
        """The terms that name clips as examples of what to find: a search leaves these clips out."""
        return [term for term in self.terms if term.kind == "moment" and term.weight > 0]


def parse_query(text: str, *, files: bool = True) -> Query:
    """Read the written form of a query; the module says what it is.

    Parameters
    ----------
    text : str
        A plain text is one term.
    files : bool
        False refuses terms that name files of this machine, and more than `MOST_TERMS`: for queries of strangers.

    Raises
    ------
    UsageError
        It begins as a combination and is none, with the place of the fault; nothing to look for.

    Examples
    --------
    >>> [(term.kind, term.value, term.weight) for term in parse_query('"beach" + 0.5*image:a.jpg - "people"').terms]
    [('text', 'beach', 1.0), ('image', 'a.jpg', 0.5), ('text', 'people', -1.0)]
    >>> [term.value for term in parse_query("black-and-white dog - C++").terms]
    ['black-and-white dog - C++']
    """
    query = Query(tuple(_terms(text)) or (Term("text", text),))
    if len(query.terms) > MOST_TERMS and not files:
        raise UsageError(f"the query has {len(query.terms)} terms: up to {MOST_TERMS} are taken")
    if query.files and not files:
        raise UsageError(f"the query names the file {query.files[0].value!r}: upload it; put a plain text in quotes")
    return query


def parse_moment(text: str, weight: float = 1.0) -> Term:
    """Read ``CLIP_ID`` or ``CLIP_ID@START-END``."""
    part = _PART.search(text)
    if part is None:
        return Term("moment", text, weight)
    return Term("moment", text[: part.start()], weight, float(part[1]), float(part[2]))


def as_query(query: str | Query) -> Query:
    """A query from a text in its written form; a `Query` as it is."""
    return parse_query(query) if isinstance(query, str) else query


def _terms(text: str) -> list[Term]:
    """The terms of a combination; none where the text is a plain one."""
    stripped = text.strip()
    sign, at, found = _SIGN.match(stripped), 0, list[Term]()
    while at == 0 or sign is not None:
        begins = sign.end() if sign else 0
        match = _TERM.match(stripped, begins)
        if match is None:
            break
        found.append(_term(match, -1.0 if sign and sign[1] == "-" else 1.0))
        at = match.end()
        if at == len(stripped):
            return found
        sign = _SIGN.match(stripped, at)
    plain = len(found) == 1 and found[0] == Term("text", found[0].value) and sign is None  # as: "wet" dog
    if not found or plain:
        return []
    raise UsageError(
        f"the query {text!r} cannot be read at {stripped[at:].strip()[:40]!r}: join terms with + or -, each a text in "
        "double quotes, image:FILE, video:FILE or moment:CLIP_ID, where a name with blanks has quotes; a plain text "
        "that begins so has quotes, too"
    )


def _term(match: re.Match[str], sign: float) -> Term:
    kind: Kind = match["kind"] or "text"  # type: ignore[assignment]
    part, value = match["part"], match["bare"]
    if value is None:
        value = match["quoted"][1:-1]
        value = re.sub(r"\\(.)", r"\1", value) if match["quoted"][0] == '"' else value
    elif kind in ("video", "moment") and (found := _PART.search(value)):
        part, value = found[0], value[: found.start()]
    start = end = None
    if part:
        if (found := _PART.match(part)) is None:
            raise UsageError(f"query: {part!r} of {value!r} is no part: write @START-END in seconds, as @12.5-20")
        start, end = float(found[1]), float(found[2])
    return Term(kind, value, sign * float(match["weight"] or 1), start, end)


def combine(terms: Sequence[Term], vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum the weighted unit vectors (N, d) of a query's terms, and scale the sum to unit length: (d,) float64.

    Raises
    ------
    UsageError
        The terms cancel each other.
    """
    if len(terms) == 1:
        return np.asarray(vectors[0], np.float64)
    weights = np.asarray([term.weight for term in terms])
    total = weights @ np.asarray(vectors, np.float64)
    length = float(np.linalg.norm(total))
    if length < _SHORTEST * np.abs(weights).max():
        raise UsageError("the terms of the query cancel each other: change their weights")
    return np.asarray(total / length)
