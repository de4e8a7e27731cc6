"""Queries as vectors: texts by the retriever, files by the visual encoder, clips by their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.query import Query, Term, as_query, combine
from supportset.store.errors import UsageError

if TYPE_CHECKING:
    from supportset.search.retriever import Retriever
    from supportset.store.read.aligned import AlignedFeatures

Asked: TypeAlias = "str | Query | NDArray[np.floating]"  # a text in its written form, a query, or a vector (d,)


class QueryEncoder:
    """Embeds the queries of one library.

    Parameters
    ----------
    retriever : Retriever
    features : AlignedFeatures
        The clips that a query may name.
    starts : mapping of str to float
        Where each clip begins in its file, in seconds.
    """

    def __init__(self, retriever: Retriever, features: AlignedFeatures, starts: Mapping[str, float]) -> None:
        self._retriever, self._features, self._starts = retriever, features, starts

    def encode(
        self, queries: Sequence[Asked], given: Mapping[Term, NDArray[np.floating]] | None = None
    ) -> NDArray[np.float64]:
        """Embed queries, (Q, d) float64 of unit length; `Searcher.embed` explains the rest."""
        asked = [query if isinstance(query, np.ndarray) else as_query(query) for query in queries]
        vectors = {_unweighted(term): np.asarray(vector) for term, vector in (given or {}).items()}
        terms = dict.fromkeys(_unweighted(term) for query in asked if isinstance(query, Query) for term in query.terms)
        missing = [term for term in terms if term not in vectors]
        texts = [term for term in missing if term.kind == "text"]
        if texts:
            vectors |= zip(texts, self._retriever.encode_text([term.value for term in texts]), strict=True)
        for term in missing:
            if term.kind == "moment":
                vectors[term] = self._of_clip(term)
            elif term.kind != "text":
                vectors[term] = self._retriever.encode_media(term.value, term.start_s, term.end_s)
        found = [
            combine(query.terms, unit_rows(np.stack([vectors[_unweighted(term)] for term in query.terms])))
            if isinstance(query, Query)
            else unit_rows(query[None])[0]
            for query in asked
        ]
        return np.stack(found) if found else np.zeros((0, 0))

    def clip_of(self, term: Term) -> str:
        """The clip that a term names; a clip's id may itself end as a part does, as in a dataset of a folder.

        Raises
        ------
        UsageError
            There is no such clip with features.
        """
        if term.value in self._starts:
            return term.value
        whole = f"{term.value}@{term.start_s:.12g}-{term.end_s:.12g}" if term.start_s is not None else term.value
        if whole not in self._starts:
            raise UsageError(f"query: no clip {term.value!r} with features to search by")
        return whole

    def _of_clip(self, term: Term) -> NDArray[np.float32]:
        """Embed a clip of the dataset, or part of one."""
        clip_id = self.clip_of(term)
        values, _ = self._features.read([clip_id])
        if term.start_s is not None and term.end_s is not None and clip_id == term.value:
            spans = self._starts[clip_id] + self._features.read_timestamps([clip_id])
            inside = (spans[:, 0] < term.end_s) & (spans[:, 1] > term.start_s)
            if not inside.any():
                raise UsageError(
                    f"query: clip {term.value!r} has the seconds {spans.min():g} to {spans.max():g} of its file, "
                    f"nothing from {term.start_s:g} to {term.end_s:g}"
                )
            values = values[inside]
        return self._retriever.encode_clips([values])[0]


def _unweighted(term: Term) -> Term:
    return replace(term, weight=1.0)
