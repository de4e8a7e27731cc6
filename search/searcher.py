"""Search the clips of a store by any retriever: texts, pictures, videos and clips as queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.search.clip_files import clips_of_split
from supportset.search.clip_moments import moments_of_clips
from supportset.search.cutoff import FIRST, clip_cutoffs, part_cutoffs
from supportset.search.filters import ClipColumns, Column, Filter
from supportset.search.hits import (
    BY,
    GROUPS,
    By,
    Curve,
    Group,
    Hit,
    Ranked,
    Ranking,
    best_of_groups,
    best_rows,
    members,
    with_fits,
)
from supportset.search.index import Index, check_index, open_index
from supportset.search.index.exact import WholeClipIndex
from supportset.search.kept import mean_part
from supportset.search.moments import Moment, merge_moments
from supportset.search.parts import read_parts
from supportset.search.query import Query, Term, as_query
from supportset.search.query_encoder import Asked, QueryEncoder
from supportset.store.errors import UsageError

if TYPE_CHECKING:
    from supportset.search.retriever import Retriever


def check_query(queries: Sequence[Asked], k: int) -> None:
    """Refuse what cannot be searched for, before anything is loaded.

    Raises
    ------
    UsageError
        A query that `parse_query` refuses, or ``k`` below 1.
    """
    for query in queries:
        if isinstance(query, str):
            as_query(query)
    if k < 1:
        raise UsageError(f"-k {k}: give at least 1")


class NoClips(UsageError):  # noqa: N818 - named for what it tells
    """A dataset has nothing to search, or nothing any more."""


class Searcher:
    """A retriever and the embeddings of all clips of a dataset, opened once for any number of queries.

    The embeddings are kept: in the run folder, or in the user's cache for a zero-shot retriever. That of a clip is used
    again only while model, feature recipes and the bytes of the clip's features are the same.

    Parameters
    ----------
    retriever : Retriever
        What `open_run` or `open_zero_shot` gives.
    store : str or Path, optional
        Folder of the feature store; by default ``features``, or that of a zero-shot retriever.
    dataset : str, optional
        By default the retriever's. Any dataset with features of the run's recipes will do, captions or not.
    protocol : str, optional
        Of ``split``; by default the run's, or the dataset's only one.
    split : str, optional
        Search only the clips of this split.

    Attributes
    ----------
    dataset : Dataset
        The tables.
    clip_ids : list of str
        The clips that are searched.
    features : AlignedFeatures
        The features of those clips and of others.
    left_out : int
        Clips with features that are not searched, as their videos are gone.
    encoder : QueryEncoder
        Makes vectors of queries.

    Raises
    ------
    UsageError
        An unknown name, a store without features of the run's recipes; a text encoder that cannot be loaded, or is not
        the one that belongs to the run or the features.
    """

    def __init__(
        self,
        retriever: Retriever,
        store: str | Path | None = None,
        *,
        dataset: str | None = None,
        protocol: str | None = None,
        split: str | None = None,
    ) -> None:
        self.retriever = retriever
        self._clips = clips = retriever.open_clips(store, dataset)
        self.dataset = clips.dataset
        self.features = features = clips.features
        if not len(features):
            told = f"; the videos of {len(features.left_out):,} clips are gone" if features.left_out else ""
            raise NoClips(f"dataset {clips.dataset.name!r} has no clip with features of this recipe{told}")
        self.clip_ids = clips_of_split(clips, features.clip_ids, protocol, split)
        if not self.clip_ids:
            protocol = protocol or clips.protocol
            raise UsageError(f"no clip of split {split!r} of protocol {protocol!r} has features to search in")
        self.left_out = len(clips_of_split(clips, features.left_out, protocol, split))
        retriever.check_text()
        self._row_of = {clip_id: row for row, clip_id in enumerate(features.clip_ids)}
        self._rows = np.asarray([self._row_of[clip_id] for clip_id in self.clip_ids], np.int64)
        self._allowed = np.zeros(len(features), bool)
        self._allowed[self._rows] = True
        self._whole = WholeClipIndex(retriever, clips) if retriever.weighting is None else None
        self._background = mean_part(retriever, clips)
        self._files = clips.files
        self._least: dict[By, NDArray[np.float32]] = {}
        self._protocol = protocol or clips.protocol
        self._indexes: dict[str, Index] = {}
        self._opening = Lock()
        starts = {clip_id: self._files[clip_id][1] for clip_id in features.clip_ids}
        self.encoder = QueryEncoder(retriever, features, starts)

    def search(
        self,
        queries: Sequence[Asked],
        k: int = 5,
        by: By = "clip",
        *,
        where: Filter | None = None,
        group: Group = "video",
        index: str = "exact",
        given: Mapping[Term, NDArray[np.floating]] | None = None,
    ) -> list[list[Hit]]:
        """Find the ``k`` best videos or clips for each query, the best first, and their moments.

        A clip that a query names as an example of what to find is not among its hits.

        Parameters
        ----------
        queries : sequence of str, Query or (d,) vector
            A text is read by `parse_query`; a vector is what `embed` gives.
        k : int
        by : {"clip", "moment"}
            What is compared with a query: whole clips, as `eval` does, or the best part of each clip, which finds a
            few seconds of a long video.
        where : Filter, optional
            Search only the clips that fit it.
        group : {"video", "clip"}
            Whether clips cut from one file are one hit, with the score of the best of them and the moments of all.
        index : str
            With ``by="moment"``, what finds the best parts: see `open_index`.
        given : mapping of Term to (d,) vector, optional
            Embeddings of terms that are there already, as for `embed`.

        Raises
        ------
        UsageError
            See `check_query`, `embed` and `ClipColumns.mask`; another ``by``, ``group`` or ``index``.
        """
        check_query(queries, k)
        for name, value, known in (("by", by, BY), ("group", group, GROUPS)):
            if value not in known:
                raise UsageError(f"{name} {value!r} is not one of {', '.join(known)}")
        check_index(index)
        if by == "clip" and index != "exact":
            raise UsageError(f"index {index} is of parts of clips: rank by moment, or take the exact one")
        asked = [query if isinstance(query, np.ndarray) else as_query(query) for query in queries]
        vectors = self.encoder.encode(asked, given)
        allowed = self._allowed.copy() if where is None else self._allowed & self.columns.mask(where)
        groups = self._videos if group == "video" else np.arange(len(allowed))
        named = [[] if isinstance(query, np.ndarray) else query.examples for query in asked]
        found = []
        rankings = self._rankings(vectors, by, allowed, k, index)
        for query, vector, ranking, examples in zip(asked, vectors, rankings, named, strict=True):
            without = [self._row_of[self.encoder.clip_of(term)] for term in examples]
            rows, scores = best_of_groups(ranking, k, groups, without)
            clips = [each[~np.isin(each, without)] for each in members(groups, allowed, rows)]
            hits = self._hits(vector, rows, scores, clips)
            if _is_text(query) and (least := self._cutoffs(by)) is not None:
                hits = with_fits(hits, least[rows].tolist(), FIRST)
            found.append(hits)
        return found

    def embed(self, query: Asked, given: Mapping[Term, NDArray[np.floating]] | None = None) -> NDArray[np.float64]:
        """Embed a query: (d,) float64 of unit length, what `search` compares.

        Parameters
        ----------
        query : str, Query or (d,) vector
            A vector is scaled to unit length.
        given : mapping of Term to (d,) vector, optional
            Embeddings of terms that are there already, as of uploaded files.

        Raises
        ------
        UsageError
            See `parse_query`, `combine` and `Retriever.encode_media`; a clip without features.
        """
        vector: NDArray[np.float64] = self.encoder.encode([query], given)[0]
        return vector

    def curve(self, query: Asked, clip_id: str, given: Mapping[Term, NDArray[np.floating]] | None = None) -> Curve:
        """Score a query over the time of one clip.

        Raises
        ------
        UsageError
            See `embed`; a clip that is not searched.
        """
        if clip_id not in self._row_of:
            raise UsageError(f"no clip {clip_id!r} with features in dataset {self.dataset.name!r}")
        vector = self.embed(query, given)
        parts = read_parts(self.retriever, self._clips.features, [clip_id])
        scores = cosine_scores(vector[None], unit_rows(parts.vectors))[0]
        least = self._cutoffs("moment") if not isinstance(query, np.ndarray) and _is_text(as_query(query)) else None
        cutoff = None if least is None else float(least[self._row_of[clip_id]])
        return Curve(self._files[clip_id][1] + parts.spans, scores, float(vector @ self._background), cutoff)

    def index(self, name: str = "exact") -> Index:
        """Open an index over the parts of all clips, once: see `open_index`."""
        with self._opening:
            if name not in self._indexes:
                self._indexes[name] = open_index(self.retriever, self._clips, name)
            return self._indexes[name]

    @property
    def embeddings(self) -> NDArray[np.float64] | None:
        """Embeddings of the clips that are searched, (N, d) of unit length, read anew.

        None where each text weights the steps of a clip.
        """
        return None if self._whole is None else np.concatenate(list(self._whole.blocks(self._rows)))

    @cached_property
    def columns(self) -> ClipColumns:
        """The columns that ``where`` may name."""
        features = self._clips.features
        paths = [self._files[clip_id][0] for clip_id in features.clip_ids]
        return ClipColumns(self.dataset, features, paths, self._protocol)

    def describe_columns(self) -> list[Column]:
        """List the columns that ``where`` may name, with their types and, where few, their values."""
        return self.columns.describe()

    def _rankings(
        self, vectors: NDArray[np.float64], by: By, allowed: NDArray[np.bool_], k: int, index: str
    ) -> Iterator[Ranking]:
        """For each query, what gives its best m clips: rows and scores."""
        if by == "clip" and self._whole is None:
            assert self.retriever.weighting is not None
            for scores in self.retriever.weighting.scores(vectors, self._clips.features, self.clip_ids):
                every = np.full(len(allowed), -np.inf, np.float32)
                every[self._rows] = np.where(np.isfinite(scores), scores, -2.0)  # a broken score comes last
                every[~allowed] = -np.inf
                yield partial(best_rows, every, int(allowed.sum()))
            return
        searched = self._whole if by == "clip" and self._whole is not None else self.index(index)
        first = searched.search(vectors, 2 * k, allowed)  # one scan for all queries
        for number, vector in enumerate(vectors):
            yield partial(_best_of, searched, vector, allowed, (first[0][number], first[1][number]))

    def _hits(
        self,
        query: NDArray[np.float64],
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        members_of: Sequence[NDArray[np.int64]],
    ) -> list[Hit]:
        if not len(rows):
            return []
        ids = self._clips.features.clip_ids
        base = float(query @ self._background)
        every = np.concatenate(members_of)  # the clips of all hits are read at once
        moments_of: dict[str, list[Moment]] = {}
        for each in moments_of_clips(self.retriever, self._clips.features, self._files, query, every, base):
            moments_of.setdefault(each.clip_id, []).append(each)
        hits = []
        for row, score, clips in zip(rows.tolist(), scores.tolist(), members_of, strict=True):
            own = chain.from_iterable(moments_of[ids[clip]] for clip in clips)
            moments = tuple(merge_moments(own, base))
            path, _ = self._files[ids[row]]
            hits.append(Hit(ids[row], score, path, moments[0].start_s, moments[0].end_s, moments))
        return hits

    def _cutoffs(self, by: By) -> NDArray[np.float32] | None:
        """What each clip must score to fit a text, by the number of the clip; infinite for those not searched."""
        if by == "clip" and self._whole is None:
            return None
        with self._opening:
            if by not in self._least:
                found = (
                    part_cutoffs(self.retriever, self._clips, self._rows)
                    if self._whole is None or by == "moment"
                    else clip_cutoffs(self.retriever, self._clips, self._whole.blocks(self._rows))
                )
                self._least[by] = np.full(len(self._allowed), np.inf, np.float32)
                self._least[by][self._rows] = found
            return self._least[by]

    @cached_property
    def _videos(self) -> NDArray[np.int64]:
        """Number of each clip's file; a clip whose file is not known is alone."""
        number_of: dict[str, int] = {}
        keys = ((self._files[clip_id][0], clip_id) for clip_id in self._clips.features.clip_ids)
        numbers = [
            number_of.setdefault(f"file {path}" if path else f"clip {clip}", len(number_of)) for path, clip in keys
        ]
        return np.asarray(numbers, np.int64)


def _best_of(index: Index, vector: NDArray[np.float64], allowed: NDArray[np.bool_], known: Ranked, m: int) -> Ranked:
    if m > len(known[0]) < allowed.sum():
        rows, scores = index.search(vector[None], m, allowed)
        return rows[0], scores[0]
    return known[0][:m], known[1][:m]


def _is_text(query: Query | NDArray[np.floating]) -> bool:
    """Whether a query is one text, which the background texts can be compared with."""
    return isinstance(query, Query) and [term.kind for term in query.terms] == ["text"]
