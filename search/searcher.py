"""Search the clips of a store with a sentence, by any retriever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.search.kept import clip_embeddings, mean_part
from supportset.search.moments import Moment, find_moments
from supportset.search.parts import open_index, read_parts
from supportset.store.errors import UsageError
from supportset.store.files import hash_pieces
from supportset.store.read.aligned import AlignedFeatures

if TYPE_CHECKING:
    from supportset.search.retriever import Retriever
    from supportset.search.step_index import StepIndex

By = Literal["clip", "moment"]
BY: tuple[By, ...] = ("clip", "moment")


@dataclass(frozen=True)
class Hit:
    """One clip that was found, and the moments of it that fit.

    Attributes
    ----------
    clip_id : str
        Of the dataset.
    score : float
        Cosine of text and clip, or of text and the clip's best part, from -1 to 1.
    path : str or None
        The clip's file, relative to the folder of videos; None where it is not known.
    start_s, end_s : float
        The best moment, in seconds of the file. Both are 0 for a picture.
    moments : tuple of Moment
        In seconds of the file, the best first: that one, and others that fit nearly as well.
    """

    clip_id: str
    score: float
    path: str | None
    start_s: float
    end_s: float
    moments: tuple[Moment, ...]

    def to_json(self) -> dict[str, Any]:
        """The hit as a JSON object."""
        return asdict(self)


def check_query(texts: Sequence[str], k: int) -> None:
    """Refuse what cannot be searched for, before anything is loaded.

    Raises
    ------
    UsageError
        A blank sentence, one that is not Unicode text, or ``k`` below 1.
    """
    for text in texts:
        if not text.strip():
            raise UsageError(f"the query {text!r} is blank: describe a clip")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the query {text!r} is not UTF-8 text: set the terminal's encoding to UTF-8") from None
    if k < 1:
        raise UsageError(f"-k {k}: give at least 1")


class Searcher:
    """A retriever and the embeddings of all clips of a dataset, opened once for any number of queries.

    The embeddings are kept: in the run folder, or in the user's cache for a zero-shot retriever. They are used again
    only while model, feature recipes, clips and the bytes of every clip's features are the same.

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
    embeddings : (N, d) float64 or None
        Of unit length; None where each text weights the steps of a clip.
    features : AlignedFeatures
        The features of those clips and of others.
    left_out : int
        Clips with features that are not searched, as their videos are gone.

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
            raise UsageError(f"dataset {clips.dataset.name!r} has no clip with features of this recipe{told}")
        self.clip_ids = self._of_split(features.clip_ids, protocol, split)
        if not self.clip_ids:
            protocol = protocol or clips.protocol
            raise UsageError(f"no clip of split {split!r} of protocol {protocol!r} has features to search in")
        self.left_out = len(self._of_split(features.left_out, protocol, split))
        retriever.check_text()
        row_of = {clip_id: row for row, clip_id in enumerate(features.clip_ids)}
        self._rows = np.asarray([row_of[clip_id] for clip_id in self.clip_ids], np.int64)
        self.embeddings: NDArray[np.float64] | None = None
        if retriever.weighting is None:
            everything, self._background = clip_embeddings(retriever, clips, self._key)
            self.embeddings = unit_rows(everything[self._rows])
        else:
            self._background = mean_part(retriever, features)
        self._files = self._where(features)

    def search(self, texts: Sequence[str], k: int = 5, by: By = "clip") -> list[list[Hit]]:
        """Find the ``k`` best clips for each sentence, the best first, and their moments.

        Parameters
        ----------
        texts : sequence of str
        k : int
        by : {"clip", "moment"}
            What is compared with a sentence: whole clips, as `eval` does, or the best part of each clip, which finds a
            few seconds of a long video.

        Raises
        ------
        UsageError
            See `check_query`; another ``by``.
        """
        check_query(texts, k)
        if by not in BY:
            raise UsageError(f"by {by!r} is not one of {', '.join(BY)}")
        queries = unit_rows(self.retriever.encode_text(texts))
        ranked: Iterable[tuple[Sequence[str], Sequence[float]]]
        if by == "clip":
            ranked = (self._best_clips(scores, k) for scores in self._scores(queries))
        else:
            ids = self._clips.features.clip_ids
            allowed = np.zeros(len(ids), bool)
            allowed[self._rows] = True
            rows, found = self._index.search(queries, k, allowed)
            ranked = [([ids[row] for row in best], own.tolist()) for best, own in zip(rows, found, strict=True)]
        return [self._hits(query, *best) for query, best in zip(queries, ranked, strict=True)]

    def _best_clips(self, scores: NDArray[np.float32], k: int) -> tuple[list[str], list[float]]:
        scores = np.where(np.isfinite(scores), scores, -2.0)  # a broken embedding comes last
        best = np.argsort(-scores, kind="stable")[:k]
        return [self.clip_ids[row] for row in best], scores[best].tolist()

    def _hits(self, query: NDArray[np.float64], clip_ids: Sequence[str], scores: Sequence[float]) -> list[Hit]:
        if not clip_ids:
            return []
        parts = read_parts(self.retriever, self._clips.features, clip_ids)
        cosines = cosine_scores(query[None], unit_rows(parts.vectors))[0]
        base = float(query @ self._background)
        hits = []
        for number, (clip_id, score) in enumerate(zip(clip_ids, scores, strict=True)):
            own = slice(parts.offsets[number], parts.offsets[number + 1])
            path, start = self._files[clip_id]
            found = find_moments(cosines[own], parts.spans[own], base)
            if _is_picture(path, parts.spans[own]):
                start, found = 0.0, [Moment(0.0, 0.0, found[0].score)]
            moments = tuple(Moment(start + each.start_s, start + each.end_s, each.score) for each in found)
            hits.append(Hit(clip_id, score, path, moments[0].start_s, moments[0].end_s, moments))
        return hits

    @cached_property
    def _index(self) -> StepIndex:
        kept = self._clips.kept
        folder = kept.with_name(kept.stem.replace("clips", "parts", 1))
        return open_index(self.retriever, self._clips.features, folder, self._key)

    @cached_property
    def _key(self) -> str:
        """Hash of all that decides the embeddings of clips and of their parts."""
        features = self._clips.features
        lines = self.retriever.key()
        for feature_set in features.sets:
            lines.append(feature_set.card.recipe.hash)
            for part in ("values", "timestamps"):  # times decide windows, and which steps of two sets belong together
                lines += map(str, feature_set.checksums(features.clip_ids, part).tolist())
        return hash_pieces(f"{line}\n".encode("utf-8", "surrogateescape") for line in [*lines, *features.clip_ids])

    def _scores(self, queries: NDArray[np.float64]) -> Iterable[NDArray[np.float32]]:
        if self.embeddings is not None:
            return (cosine_scores(query[None], self.embeddings)[0] for query in queries)
        assert self.retriever.weighting is not None
        return self.retriever.weighting.scores(queries, self._clips.features, self.clip_ids)

    def _of_split(self, clip_ids: list[str], protocol: str | None, split: str | None) -> list[str]:
        if protocol is None and split is None:
            return clip_ids
        if split is None:
            raise UsageError(f"--protocol {protocol} needs a --split to search in")
        tables, protocol = self.dataset, protocol or self._clips.protocol
        if protocol is None:
            known = ", ".join(tables.protocols()) or "none"
            raise UsageError(f"--split {split} needs a --protocol: dataset {tables.name!r} has {known}")
        among = set(clip_ids)
        return [clip_id for clip_id in tables.split_clips(protocol, split) if clip_id in among]

    def _where(self, features: AlignedFeatures) -> dict[str, tuple[str | None, float]]:
        """File of each clip, where the last run found it or as it was extracted, and where the clip begins in it."""
        rows = features.sets[0].rows().select(["clip_id", "source_path"]).to_pydict()
        where: dict[str, tuple[str | None, float]]
        where = {clip: (path, 0.0) for clip, path in zip(rows["clip_id"], rows["source_path"], strict=True)}
        for row in self.dataset.clips.select(["clip_id", "path", "start_s"]).to_pylist():
            extracted, _ = where.get(row["clip_id"], (None, 0.0))
            where[row["clip_id"]] = row["path"] or extracted, row["start_s"] or 0.0
        return where


def _is_picture(path: str | None, spans: NDArray[np.float64]) -> bool:
    """Whether a clip is a still picture, whose steps are stored as one second."""
    kind = guess_type(path or "")[0] or ""
    return kind.startswith("image/") and bool((spans == (0.0, 1.0)).all())
