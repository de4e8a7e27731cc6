"""Search the clips of a store with a sentence, by any retriever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder, hash_parts, hash_pieces
from supportset.store.read.aligned import AlignedFeatures

if TYPE_CHECKING:
    from supportset.search.retriever import Clips, Retriever


@dataclass(frozen=True)
class Hit:
    """One clip that was found.

    Attributes
    ----------
    clip_id : str
        Of the dataset.
    score : float
        Cosine of text and clip, from -1 to 1.
    path : str or None
        The clip's file, relative to the folder of videos; None where it is not known.
    start_s, end_s : float or None
        The part of the file, None for all of it.
    """

    clip_id: str
    score: float
    path: str | None
    start_s: float | None
    end_s: float | None

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
        features = clips.features
        if not len(features):
            told = f"; the videos of {len(features.left_out):,} clips are gone" if features.left_out else ""
            raise UsageError(f"dataset {clips.dataset.name!r} has no clip with features of this recipe{told}")
        self.clip_ids = self._of_split(features.clip_ids, protocol, split)
        if not self.clip_ids:
            protocol = protocol or clips.protocol
            raise UsageError(f"no clip of split {split!r} of protocol {protocol!r} has features to search in")
        self.left_out = len(self._of_split(features.left_out, protocol, split))
        retriever.check_text()
        self.embeddings: NDArray[np.float64] | None = None
        if retriever.weighting is None:
            row_of = {clip_id: row for row, clip_id in enumerate(features.clip_ids)}
            everything = _embeddings(retriever, clips)
            self.embeddings = unit_rows(everything[[row_of[clip_id] for clip_id in self.clip_ids]])
        self._files = self._where(features)

    def search(self, texts: Sequence[str], k: int = 5) -> list[list[Hit]]:
        """Find the ``k`` best clips for each sentence, the best first.

        Raises
        ------
        UsageError
            See `check_query`.
        """
        check_query(texts, k)
        hits = []
        for scores in self._scores(unit_rows(self.retriever.encode_text(texts))):
            scores = np.where(np.isfinite(scores), scores, -2.0)  # a broken embedding comes last
            best = np.argsort(-scores, kind="stable")[:k]
            hits.append([self._hit(self.clip_ids[row], float(scores[row])) for row in best])
        return hits

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

    def _where(self, features: AlignedFeatures) -> dict[str, dict[str, Any]]:
        """File and times of each clip: the file where the last run found it, or as it was extracted."""
        rows = features.sets[0].rows().select(["clip_id", "source_path"]).to_pydict()
        extracted = dict(zip(rows["clip_id"], rows["source_path"], strict=True))
        columns = self.dataset.clips.select(["clip_id", "path", "start_s", "end_s"]).to_pylist()
        where = {clip_id: {"path": path, "start_s": None, "end_s": None} for clip_id, path in extracted.items()}
        for row in columns:
            where[row["clip_id"]] = {
                "path": row["path"] or extracted.get(row["clip_id"]),
                "start_s": row["start_s"],
                "end_s": row["end_s"],
            }
        return where

    def _hit(self, clip_id: str, score: float) -> Hit:
        return Hit(clip_id, score, **self._files[clip_id])


def _embeddings(retriever: Retriever, clips: Clips) -> NDArray[np.float32]:
    """Read the embeddings that an earlier search kept, or compute them and keep them."""
    features = clips.features
    lines = retriever.key()
    for feature_set in features.sets:
        lines += [feature_set.card.recipe.hash, *map(str, feature_set.checksums(features.clip_ids).tolist())]
    key = hash_pieces(f"{line}\n".encode("utf-8", "surrogateescape") for line in [*lines, *features.clip_ids])
    kept = _read_kept(clips.kept, key)
    if kept is not None:
        return kept
    embeddings = retriever.encode_stored(features, features.clip_ids)
    with suppress(SupportsetError):  # a folder that cannot be written: the next search computes them again
        folder = LocalFolder(clips.kept.parent)
        about = {"key": key, "content": hash_parts([embeddings.tobytes()])}
        folder.put({clips.kept.name: [save({"embeddings": embeddings}, metadata=about)]})
    return embeddings


def _read_kept(path: Path, key: str) -> NDArray[np.float32] | None:
    """Read the embeddings of an earlier search, if they are of exactly this model and these features."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("key") != key:
                return None
            embeddings: NDArray[np.float32] = file.get_tensor("embeddings")
            return embeddings if about.get("content") == hash_parts([embeddings.tobytes()]) else None
    except (SafetensorError, OSError):
        return None  # damaged: computed again
