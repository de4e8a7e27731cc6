"""What an index is, and which there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.store.errors import UsageError

if TYPE_CHECKING:
    from supportset.search.retriever import Clips, Retriever

Found = tuple[NDArray[np.int64], NDArray[np.float32]]


class Index(Protocol):
    """The parts of N clips, searched for the clips whose best part fits a query best."""

    def __len__(self) -> int:
        """Number of clips."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know, such as the recall, a line each."""

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON: ``index``, and what it knows of itself."""

    def search(self, queries: ArrayLike, k: int, allowed: NDArray[np.bool_] | None = None) -> Found:
        """Find the k clips with the best parts.

        Parameters
        ----------
        queries : (Q, d) float
            Of any length.
        k : int
            At least 1; fewer clips are returned where fewer can be.
        allowed : (N,) bool, optional
            Clips to choose from.

        Returns
        -------
        clips : (Q, K) int64
            Numbers of clips, the best first; of equal scores the lower number.
        scores : (Q, K) float32
            Cosine of the query and the clip's best part, in full precision, whatever the index.
        """


def _exact(retriever: Retriever, clips: Clips, rest: str) -> Index:
    from supportset.search.index.exact import ExactIndex

    return ExactIndex(retriever, clips)


def _usearch(retriever: Retriever, clips: Clips, rest: str) -> Index:
    from supportset.search.index.usearch_index import UsearchIndex

    return UsearchIndex(retriever, clips)


def _lancedb(retriever: Retriever, clips: Clips, rest: str) -> Index:
    from supportset.search.index.lance_index import LanceIndex

    return LanceIndex(retriever, clips, rest)


# By name; the last parameter is what follows "NAME:"
INDEXES: dict[str, Callable[[Retriever, Clips, str], Index]] = {
    "exact": _exact,
    "usearch": _usearch,
    "lancedb": _lancedb,
}
NAMES = "exact, usearch or lancedb:URL"


def check_index(name: str) -> str:
    """Return the name of an index; UsageError for one that there is not."""
    kind, colon, rest = name.partition(":")
    if kind not in INDEXES or (kind == "lancedb") != bool(colon and rest):
        raise UsageError(f"index {name!r} is not one of {NAMES}")
    return name


def open_index(retriever: Retriever, clips: Clips, name: str = "exact") -> Index:
    """Open an index over the parts of all clips; what it lacks is added first.

    Parameters
    ----------
    retriever : Retriever
        What embeds the parts.
    clips : Clips
        What `Retriever.open_clips` gives. Clip numbers are those of ``clips.features.clip_ids``.
    name : str
        ``exact``; ``usearch``, which is approximate and tells its recall; ``lancedb:URL``, a table that
        `LanceTable.export` wrote.

    Raises
    ------
    UsageError
        Another name; a library that is not installed.
    SupportsetError
        Features that do not match their checksums.
    """
    kind, _, rest = check_index(name).partition(":")
    return INDEXES[kind](retriever, clips, rest)
