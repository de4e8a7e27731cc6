"""Search the clips of a store with a sentence, by a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.store.errors import UsageError
from supportset.store.files import LocalFolder, hash_parts
from supportset.store.read.aligned import AlignedFeatures
from supportset.train.data.feature_sets import clip_checksums
from supportset.train.data.source import digest
from supportset.train.open_run import open_run_on_store
from supportset.train.run_folder import RunFolder

if TYPE_CHECKING:
    from supportset.search.run import Run


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
        The clip's file, relative to the folder of videos it was extracted from; None where it is not known.
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
    """A run and the embeddings of all clips of a dataset, opened once for any number of queries.

    The embeddings are kept in the run folder. They are used again only while model, feature recipes, clips and the
    bytes of every clip's features are the same.

    Parameters
    ----------
    run : Run
        What `open_run` gives.
    store : str or Path
        Folder of the feature store.
    dataset : str, optional
        By default the run's. Any dataset with features of the run's recipes will do, captions or not.
    protocol : str, optional
        Of ``split``; by default the run's.
    split : str, optional
        Search only the clips of this split.

    Attributes
    ----------
    clip_ids : list of str
        The clips that are searched.
    embeddings : (N, d) float32
        Of unit length.
    left_out : int
        Clips with features that are not searched, as their videos are gone.

    Raises
    ------
    UsageError
        An unknown name, a store without features of the run's recipes; a text encoder that cannot be loaded, or is not
        the one that the run was trained with.
    """

    def __init__(
        self,
        run: Run,
        store: str | Path = "features",
        *,
        dataset: str | None = None,
        protocol: str | None = None,
        split: str | None = None,
    ) -> None:
        opened = open_run_on_store(run.path, store, dataset)
        self.run = run
        folder, features = opened.folder, opened.features
        self.config, self.tables = opened.config, opened.dataset
        if not len(features):
            told = f"; the videos of {len(features.left_out):,} clips are gone" if features.left_out else ""
            raise UsageError(
                f"{store}: dataset {self.tables.name!r} has no clip with features of the run's recipe{told}"
            )
        wanted = self._wanted(features, protocol, split)
        self.left_out = len(self._of_split(features.left_out, protocol, split))
        _ = run.frozen_text  # another encoder is found before the clips are embedded
        everything = self._embeddings(folder, features)
        row_of = {clip_id: row for row, clip_id in enumerate(features.clip_ids)}
        self.clip_ids = wanted
        self.embeddings = unit_rows(everything[[row_of[clip_id] for clip_id in wanted]])
        self._files = self._where(features)

    def search(self, texts: Sequence[str], k: int = 5) -> list[list[Hit]]:
        """Find the ``k`` best clips for each sentence, the best first.

        Raises
        ------
        UsageError
            See `check_query`.
        """
        check_query(texts, k)
        queries = unit_rows(self.run.embed_texts(texts))
        hits = []
        for query in queries:
            scores = cosine_scores(query[None], self.embeddings)[0]
            scores = np.where(np.isfinite(scores), scores, -2.0)  # a broken embedding comes last
            best = np.argsort(-scores, kind="stable")[:k]
            hits.append([self._hit(self.clip_ids[row], float(scores[row])) for row in best])
        return hits

    def _wanted(self, features: AlignedFeatures, protocol: str | None, split: str | None) -> list[str]:
        wanted = self._of_split(features.clip_ids, protocol, split)
        if not wanted:
            protocol = protocol or self.config.data.protocol
            raise UsageError(f"no clip of split {split!r} of protocol {protocol!r} has features to search in")
        return wanted

    def _of_split(self, clip_ids: list[str], protocol: str | None, split: str | None) -> list[str]:
        if protocol is None and split is None:
            return clip_ids
        protocol = protocol or self.config.data.protocol
        if split is None:
            raise UsageError(f"--protocol {protocol} needs a --split to search in")
        among = set(clip_ids)
        return [clip_id for clip_id in self.tables.split_clips(protocol, split) if clip_id in among]

    def _embeddings(self, folder: RunFolder, features: AlignedFeatures) -> NDArray[np.float32]:
        lines = [folder.model_hash(), str(self.config.data.max_steps)]
        for feature_set in features.sets:
            lines += [feature_set.card.recipe.hash, *clip_checksums(feature_set, features.clip_ids)]
        key = digest([*lines, *features.clip_ids])
        name = f"clips-{self.tables.name}.safetensors"
        kept = _read_kept(folder.cache / name, key)
        if kept is not None:
            return kept
        from supportset.train.encode import encode_gallery

        embeddings = encode_gallery(self.run.model, features, features.clip_ids, self.config.data.max_steps)
        about = {"key": key, "content": hash_parts([embeddings.tobytes()])}
        LocalFolder(folder.cache).put({name: [save({"embeddings": embeddings}, metadata=about)]})
        return embeddings

    def _where(self, features: AlignedFeatures) -> dict[str, dict[str, Any]]:
        """File and times of each clip: the file as extracted, or as the dataset's table has it."""
        rows = features.sets[0].rows().select(["clip_id", "source_path"]).to_pydict()
        extracted = dict(zip(rows["clip_id"], rows["source_path"], strict=True))
        columns = self.tables.clips.select(["clip_id", "path", "start_s", "end_s"]).to_pylist()
        where = {clip_id: {"path": path, "start_s": None, "end_s": None} for clip_id, path in extracted.items()}
        for row in columns:
            where[row["clip_id"]] = {
                "path": extracted.get(row["clip_id"]) or row["path"],
                "start_s": row["start_s"],
                "end_s": row["end_s"],
            }
        return where

    def _hit(self, clip_id: str, score: float) -> Hit:
        return Hit(clip_id, score, **self._files[clip_id])


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
