"""Retrieval without training: the features of an encoder pair, compared with the embeddings of its own text tower."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.evaluation import Evaluation
from supportset.evaluate.ranks import unit_rows
from supportset.evaluate.scores import Embeddings, Matrix, Similarity
from supportset.evaluate.scoring import PLAIN, Scoring, expected_clips
from supportset.evaluate.splits import default_split, only_protocol, read_split
from supportset.search.media import MediaEncoder
from supportset.search.retriever import Clips, Retriever, check_steps
from supportset.search.searcher import Searcher
from supportset.search.stored_text import stored_embeddings
from supportset.search.text_weighted import TEMPERATURE, TextWeighted
from supportset.store.errors import UsageError
from supportset.store.files.hashing import hash_parts
from supportset.store.format.dataset import open_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import locate_feature_set
from supportset.store.read.feature_set import FeatureSet
from supportset.store.user_cache import cache_folder

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextTower
    from supportset.store.format.dataset import Dataset

Pooling = Literal["mean", "text-weighted"]
POOLINGS: tuple[Pooling, ...] = ("mean", "text-weighted")
PLACE = "{}"  # where a template has the text


class ZeroShot(Retriever):
    """The text tower that belongs to the visual encoder of a feature set. `open_zero_shot` makes one.

    A clip is the mean of its steps, each scaled to unit length (as an image is one step), or its steps are weighted by
    each text. A text is the mean of its templates' embeddings, each of unit length.

    Attributes
    ----------
    dataset : Dataset
        The tables.
    features : AlignedFeatures
        The feature set, compared with its checksums when it is read.
    templates : tuple of str
        Each with ``{}`` in the place of the text.
    """

    def __init__(
        self,
        dataset: Dataset,
        features: FeatureSet,
        *,
        encoder: str | None = None,
        templates: Sequence[str] = (),
        weighting: TextWeighted | None = None,
        device: str = "auto",
        backbone: str | None = None,
    ) -> None:
        self.dataset, self._card, self.weighting = dataset, features.card, weighting
        self.features = AlignedFeatures([features], dataset.gone)
        self.templates = tuple(templates) or (PLACE,)
        if wrong := [template for template in self.templates if template.count(PLACE) != 1]:
            raise UsageError(
                f"template {wrong[0]!r}: put {PLACE} once, in the place of the text, as 'a video of {PLACE}'"
            )
        self._encoder, self._device = encoder, device
        self._reading = threading.Lock()  # tokenizers are not safe for threads
        visual = backbone or encoder
        self.media = MediaEncoder([features], device, [visual] if visual else [])

    def __repr__(self) -> str:
        return f"ZeroShot({self.dataset.name}/{self._card.recipe.folder}, {self.weighting})"

    @cached_property
    def tower(self) -> TextTower:
        """The text tower, loaded on first use.

        Raises
        ------
        UsageError
            The encoder has no text tower, cannot be loaded, or has other weights than made the features.
        """
        from supportset.extract.pipeline.forward import pick_device
        from supportset.extract.text.encoders import load_tower_of

        device = pick_device(self._device)
        tower = load_tower_of(self._card, self._encoder)
        tower.to(device)
        return tower

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON: features, encoder, hashes of both towers, templates, pooling."""
        return {
            "retriever": "zero-shot",
            "features": [self._card.recipe.folder],
            "encoder": self.tower.name,
            "weights": {"visual": self._card.recipe.weights_hash, "text": self.tower.weights_hash},
            "templates": list(self.templates),
            "pooling": "text-weighted" if self.weighting else "mean",
            "temperature": self.weighting.temperature if self.weighting else None,
        }

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts by the text tower.

        Returns
        -------
        (N, d) float32
            Of unit length; zeros for a text in which the tokenizer finds no token.
        """
        from supportset.extract.text.encoders import live_features

        prompts = [template.replace(PLACE, text) for template in self.templates for text in texts]
        rows = np.zeros((len(prompts), self.tower.dim))
        with self._reading:
            found = live_features(self.tower)(prompts)
        for row, vectors in zip(rows, found, strict=True):
            row[:] = vectors[0] if len(vectors) else 0.0
        units = unit_rows(rows).reshape(len(self.templates), len(texts), self.tower.dim)
        units[:, [not text.strip() for text in texts]] = 0.0  # a template alone says nothing of the text
        return unit_rows(units.mean(0)).astype(np.float32)

    def encode_clips(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32]:
        """Embed clips by their features: the mean of their steps, each of unit length.

        Parameters
        ----------
        clips : sequence of (T, d) arrays
            Steps of each clip.

        Returns
        -------
        (N, d) float32
            Of unit length.

        Raises
        ------
        UsageError
            An array of another shape.
        """
        if not len(clips):
            return np.zeros((0, self.features.dim), np.float32)
        steps, first = self._unit_steps(clips)
        lengths = np.diff(first, append=len(steps))
        return unit_rows(np.add.reduceat(steps, first, axis=0) / lengths[:, None]).astype(np.float32)

    def encode_steps(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32]:
        """Embed each step of clips: (ΣT, d) float32 of unit length, clip after clip."""
        return self._unit_steps(clips)[0].astype(np.float32)

    def check_text(self) -> None:
        """Load the text tower."""
        _ = self.tower

    def key(self) -> list[str]:
        """What decides the embedding of a clip besides its features."""
        return ["mean of unit steps"]

    def open_clips(self, store: str | Path | None = None, dataset: str | None = None) -> Clips:
        """The clips of the dataset that the features belong to; another cannot be named."""
        if store is not None or dataset is not None:
            raise UsageError(f"the retriever belongs to features of {self.dataset.name!r}: open one of those wanted")
        protocols = self.dataset.protocols()
        place = hash_parts([str(self.features.sets[0].path).encode("utf-8", "surrogateescape")]).partition(":")[2][:16]
        return Clips(
            self.dataset,
            self.features,
            protocols[0] if len(protocols) == 1 else None,
            cache_folder() / "search" / f"{self.dataset.name}-{place}",
        )

    def reopened(self) -> ZeroShot:
        """The same model on the features as they are now; what is loaded is used again."""
        path, again = self.features.sets[0].path, copy(self)
        again.dataset = open_dataset(path.parent.parent.parent, self.dataset.name)
        again.features = AlignedFeatures([FeatureSet.open(path, check=True)], again.dataset.gone)
        return again

    def open_gallery(self, *, protocol: str | None = None, split: str | None = None) -> Searcher:
        """Embed the clips, or find their embeddings in the user's cache.

        Returns
        -------
        Searcher
            ``search(texts, k)`` gives the best clips of each text.
        """
        return Searcher(self, protocol=protocol, split=split)

    def evaluate(
        self,
        protocol: str | None = None,
        split: str | None = None,
        out: str | Path | None = None,
        *,
        scoring: Scoring = PLAIN,
    ) -> dict[str, Any]:
        """Score it as ``supportset eval --zero-shot`` does.

        Parameters
        ----------
        protocol : str, optional
            By default the dataset's only one.
        split : str, optional
            By default ``test``, or the protocol's only split besides ``train``.
        out : str or Path, optional
            Folder to write scores and ranks to.
        scoring : Scoring
            Gallery list, conventions, relevance file, scores beside.

        Returns
        -------
        dict
            As `supportset.evaluate_run`, with what `describe` says in place of the run.

        Raises
        ------
        UsageError
            An unknown name, several protocols or splits to choose from, a split without captions or features; an
            encoder without a text tower, or one that cannot be loaded.
        SupportsetError
            Features that do not match their checksums.
        """
        evaluation = self.evaluation(protocol, split, scoring=scoring)
        return evaluation.to_json() if out is None else evaluation.write(out)

    def evaluation(
        self,
        protocol: str | None = None,
        split: str | None = None,
        *,
        scoring: Scoring = PLAIN,
        only: tuple[str, Collection[str]] | None = None,
    ) -> Evaluation:
        """The same as an `Evaluation`; ``only`` cuts the split to these clips, under this name."""
        protocol = protocol or only_protocol(self.dataset)
        in_tables = scoring.table_protocol(protocol)
        split = split or default_split(self.dataset, in_tables, "train")
        every = read_split(self.dataset, in_tables, split, set(self.features.clip_ids))
        part = scoring.prepare(every if only is None else every.of_clips(*only))
        if not part.captions:
            raise UsageError(
                f"{self.dataset.name}: split {split!r} of protocol {protocol!r} has no captions, so no queries"
            )
        self.check_text()
        stored = (
            stored_embeddings(self.tower, self.features.sets[0], part.captions) if self.templates == (PLACE,) else None
        )
        texts = self.encode_text([each.text for each in part.captions]) if stored is None else unit_rows(stored[0])
        similarity: Similarity
        if self.weighting is None:
            similarity = Embeddings(self.encode_stored(self.features, part.present), texts)
        else:
            similarity = Matrix(self.weighting.scores(texts, self.features, part.present))
        return Evaluation.of_similarity(
            part,
            similarity,
            scoring=scoring,
            protocol=protocol,
            dataset=self.dataset.name,
            expected=None if only else expected_clips(protocol, self.dataset.expected(in_tables, split)),
            subject={
                "left_out": len(part.missing.intersection(self.features.left_out)),
                **self.describe(),
                "text_features": None if stored is None else stored[1],
            },
            selected_by="nothing: no training",
        )

    def _unit_steps(self, clips: Sequence[ArrayLike]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The unit steps of all clips, and where each clip begins."""
        checked = [check_steps(number, clip, self.features.dim) for number, clip in enumerate(clips)]
        lengths = [len(each) for each in checked]
        first = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
        return unit_rows(np.concatenate(checked) if checked else np.zeros((0, self.features.dim))), first


def open_zero_shot(
    features: str,
    store: str | Path = "features",
    *,
    encoder: str | None = None,
    templates: Sequence[str] = (),
    pooling: Pooling = "mean",
    temperature: float | None = None,
    device: str = "auto",
    backbone: str | None = None,
) -> ZeroShot:
    """Open a feature set for retrieval without training.

    Parameters
    ----------
    features : str
        ``DATASET/FEATURES``, as `supportset.open_features` takes it.
    store : str or Path
        Folder of the feature store.
    encoder : str, optional
        Name or path of the encoder pair on this machine; default: as recorded when the features were made.
    templates : sequence of str
        Each has ``{}`` in the place of the text; their embeddings are averaged. Default: the text alone.
    pooling : {"mean", "text-weighted"}
        A clip is the mean of its unit steps, or each text weights the steps (`supportset.search.text_weighted`).
    temperature : float, optional
        Of the weights; default 0.1.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    backbone : str, optional
        Name or path of the visual encoder, for image and video files as queries; default: ``encoder``, or as recorded.

    Raises
    ------
    UsageError
        Unknown features, or a wrong option. The text tower is loaded on first use.
    """
    if pooling not in POOLINGS:
        raise UsageError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
    if temperature is not None and pooling == "mean":
        raise UsageError(
            f"temperature {temperature} is one of weights: leave it out, or take the pooling text-weighted"
        )
    info = locate_feature_set(store, features, "video")
    if info.card.recipe.kind != "video":
        raise UsageError(f"{features}: {info.name} holds features of text: name features of clips")
    return ZeroShot(
        open_dataset(store, info.dataset),
        FeatureSet.open(info.path, check=True),
        encoder=encoder,
        templates=templates,
        weighting=None if pooling == "mean" else TextWeighted(TEMPERATURE if temperature is None else temperature),
        device=device,
        backbone=backbone,
    )
