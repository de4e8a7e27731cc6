"""A trained run, opened for use from Python: embeddings, scores, search."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.hits import Hit
from supportset.search.media import MediaEncoder
from supportset.search.retriever import Clips, Retriever, check_steps
from supportset.search.searcher import Searcher, check_query
from supportset.store.read.resident import thinned
from supportset.train.open_run import open_run_on_store
from supportset.train.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

    from supportset.store.read.aligned import AlignedFeatures
    from supportset.train.data.training_data import TokenTable
    from supportset.train.model.model import SupportSetModel

_BATCH = 256  # clips embedded at a time


class Run(Retriever):
    """A trained run. `open_run` makes one.

    Attributes
    ----------
    path : Path
        The run folder.
    config : Config
        As it was trained with.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        text_encoder: str | None = None,
        backbones: Sequence[str] = (),
    ) -> None:
        self._folder = RunFolder(path)
        self.path, self.config = self._folder.path, self._folder.load_config()
        self._folder.model_folder()  # refuses a run that has no model yet
        self._device, self._text_encoder, self._backbones = device, text_encoder, tuple(backbones)
        self._reading = threading.Lock()  # tokenizers are not safe for threads

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, device={self._device!r})"

    @cached_property
    def device(self) -> torch.device:
        """The device that the model is on."""
        from supportset.train.device import choose_device

        return choose_device(self._device)

    @cached_property
    def model(self) -> SupportSetModel:
        """The model without its caption decoder, loaded on first use, in evaluation mode."""
        from supportset.train.model.model import SupportSetModel

        return SupportSetModel.from_pretrained(self.path, device=str(self.device), decoder=False)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Returns
        -------
        (N, d) float32
            Of unit length: the product with `encode_clips` is the cosine.

        Raises
        ------
        UsageError
            The frozen text encoder of a run on text features cannot be loaded, or is another one.
        """
        from supportset.train.data.cached_text import TokenFeatures
        from supportset.train.encode import encode_tokens, tokenize

        recipe = self.model.text_recipe
        tokens: TokenTable | TokenFeatures
        with self._reading:
            if recipe is None or self.frozen_text is None:
                tokens = tokenize(self.model, texts, self.config.data.max_tokens)
            else:  # rounded as the features that the run was trained on
                rounded = [each.astype(recipe.dtype).astype(np.float32) for each in self.frozen_text(texts)]
                tokens = TokenFeatures.of(rounded, recipe.dim)
        return unit_rows(encode_tokens(self.model, tokens)).astype(np.float32)

    def encode_clips(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32]:
        """Embed clips by their features.

        Parameters
        ----------
        clips : sequence of (T, D) arrays
            Steps of each clip, made by the recipe that the run was trained on. Several feature sets stand side by side,
            as in ``config.data.features``. Longer clips are thinned to ``config.data.max_steps`` steps.

        Returns
        -------
        (N, d) float32
            Of unit length.

        Raises
        ------
        UsageError
            An array of another shape.
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        from supportset.train.encode import evaluating

        checked = [check_steps(number, clip, self.model.feature_dim) for number, clip in enumerate(clips)]
        most = self.config.data.max_steps
        steps = [torch.from_numpy(each[thinned(len(each), most)]) for each in checked]
        lengths = torch.tensor([len(each) for each in steps], dtype=torch.long)
        out = np.zeros((len(steps), self.config.dim), np.float32)
        order = torch.argsort(lengths)  # similar lengths together: little padding
        with evaluating(self.model):
            for start in range(0, len(order), _BATCH):
                rows = order[start : start + _BATCH]
                values = pad_sequence([steps[row] for row in rows.tolist()], batch_first=True)
                mask = torch.arange(values.shape[1])[None] < lengths[rows, None]
                codes = self.model.encode_video(values.to(self.device), mask.to(self.device))
                out[rows.numpy()] = codes.embedding.float().cpu().numpy()
        return unit_rows(out).astype(np.float32)

    def evaluate(
        self,
        store: str | Path = "features",
        *,
        protocol: str | None = None,
        split: str | None = None,
        dataset: str | None = None,
    ) -> dict[str, Any]:
        """Score the run as ``supportset eval`` does; see `supportset.evaluate_run`."""
        from supportset.train.evaluate import evaluate

        return evaluate(self.path, protocol, split, store, dataset=dataset, device=str(self.device))

    def open_gallery(
        self,
        store: str | Path = "features",
        *,
        dataset: str | None = None,
        protocol: str | None = None,
        split: str | None = None,
    ) -> Searcher:
        """Embed the clips of a store, or find their embeddings in the run's cache.

        Returns
        -------
        Searcher
            ``search(texts, k)`` gives the best clips of each text; ``clip_ids`` and ``embeddings`` (N, d), of unit
            length, are what it searches.
        """
        return Searcher(self, store, dataset=dataset, protocol=protocol, split=split)

    @cached_property
    def frozen_text(self) -> Callable[[Sequence[str]], list[NDArray[np.float32]]] | None:
        """The encoder that made the text features of the run: texts to arrays (T, h). None: the run reads tokens."""
        from supportset.extract.text.encoders import live_features, load_recorded

        recipe = self.model.text_recipe
        if recipe is None:
            return None
        recorded = (self._folder.data_record().get("text_features") or {}).get("encoder")
        encoder = load_recorded(recipe, self._text_encoder or recorded)
        encoder.to(self.device)
        return live_features(encoder)

    def check_text(self) -> None:
        """Load the frozen text encoder of a run on text features."""
        _ = self.frozen_text

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON: run, hash of the model, features."""
        record = self._folder.data_record()
        return {
            "retriever": "trained",
            "run": str(self.path),
            "model": self._folder.model_hash(),
            "features": [entry["folder"] for entry in record["features"]],
        }

    def key(self) -> list[str]:
        """What decides the embedding of a clip besides its features."""
        return [self._folder.model_hash(), str(self.config.data.max_steps)]

    def open_clips(self, store: str | Path | None = None, dataset: str | None = None) -> Clips:
        """Clips of a store with features of the run's recipes; of the run's dataset by default."""
        opened = open_run_on_store(self.path, "features" if store is None else store, dataset)
        name = opened.dataset.name
        kept = self._folder.cache / f"search-{name}"
        self.media = MediaEncoder(opened.features.sets, self._device, self._backbones)
        return Clips(opened.dataset, opened.features, self.config.data.protocol, kept)

    def encode_stored(self, features: AlignedFeatures, clip_ids: Sequence[str]) -> NDArray[np.float32]:
        """Embed any number of stored clips: (N, d)."""
        from supportset.train.encode import encode_gallery

        return encode_gallery(self.model, features, clip_ids, self.config.data.max_steps)


def open_run(
    path: str | Path, device: str = "auto", *, text_encoder: str | None = None, backbones: Sequence[str] = ()
) -> Run:
    """Open a trained run.

    Parameters
    ----------
    path : str or Path
        The run folder. It needs no store and no network.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    text_encoder : str, optional
        Where the frozen text encoder is, for a run that was trained on text features; default: as recorded.
    backbones : sequence of str
        Name or path of the visual encoder of each feature set, for image and video files as queries; default: as
        recorded.

    Raises
    ------
    UsageError
        No run folder, or no model in it yet.
    """
    return Run(path, device, text_encoder, backbones)


def search(
    run: str | Path,
    text: str,
    k: int = 5,
    store: str | Path = "features",
    *,
    dataset: str | None = None,
    protocol: str | None = None,
    split: str | None = None,
    device: str = "auto",
    text_encoder: str | None = None,
) -> list[Hit]:
    """Find the ``k`` best clips for one sentence; `open_run` and `Searcher` explain the parameters and errors."""
    check_query([text], k)
    searcher = Searcher(Run(run, device, text_encoder), store, dataset=dataset, protocol=protocol, split=split)
    return searcher.search([text], k)[0]
