"""Ways to do a training step that differ in one thing each, on one model's weights."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.train.straightforward import Collate, Loader, PairDataset, PlainDecoder
from supportset.train.config import Config
from supportset.train.data.source import RunData, open_run_data
from supportset.train.data.training_data import TrainingData
from supportset.train.loop.preparation import make_loader, on_device
from supportset.train.model.batch import Batch
from supportset.train.model.decoder import IGNORED
from supportset.train.model.model import SupportSetModel
from supportset.train.model.ops.dropout import Dropout
from supportset.train.model.ops.padding import Positions

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Way:
    """How a step is done; as it stands, ours.

    Attributes
    ----------
    bucketed : bool
        The round's captions are cut into batches by their length; else at random.
    short_captions : bool
        Padded to the longest of the batch; else to ``data.max_tokens``.
    short_clips : bool
        Padded to the longest of the batch; else to the longest of the dataset.
    own_decoder : bool
        Ours, on real tokens alone with the fused loss; else the library's with logits for every position.
    packed : bool
        Both encoders compute on real positions alone; else on all of them. On a GPU they always do the latter.
    cheap : bool
        Our dropout and the fused AdamW; else PyTorch's dropout and the AdamW that is used unless another is asked.
    in_memory : bool
        Features come from memory; else from one ``.npy`` a clip by a DataLoader with two workers.
    half : bool
        Bf16 autocast; on a GPU only.
    """

    bucketed: bool = True
    short_captions: bool = True
    short_clips: bool = True
    own_decoder: bool = True
    packed: bool = True
    cheap: bool = True
    in_memory: bool = True
    half: bool = False


class Bench:
    """One model with its optimiser, and steps on it in different ways.

    Parameters
    ----------
    config : Config
        Of the model; its ``data.bucket`` is not looked at, the way says it.
    root, npy : Path
        The store, and the folder with one ``.npy`` a clip.
    bucket : int
        Batches of a round.
    """

    def __init__(self, config: Config, root: Path, npy: Path, bucket: int, device: torch.device) -> None:
        self.config, self._device, self._npy, self._bucket = config, device, npy, bucket
        self._data: RunData = open_run_data(config, root)
        self._texts = [caption.text for caption in self._data.train.captions]
        torch.manual_seed(config.seed)
        self.model = SupportSetModel.build(config, self._data.features.dim, self._texts).to(device).train()
        self._plain = _with_plain_decoder(self.model).train()
        self._optimizers = {cheap: self._optimizer(fused=cheap or None) for cheap in (True, False)}
        self.loader: TrainingData = make_loader(config, self._data, self.model, self._texts, device)
        self._pairs: PairDataset | None = None
        self._loaders: dict[Way, Loader] = {}

    @property
    def longest_clip(self) -> int:
        """Steps of the longest clip of the dataset."""
        return int(self.loader.features.lengths.max())

    def planned(self, number: int, bucketed: bool) -> list[Rows]:
        """Rows of each batch of a round: the same captions either way."""
        rng, size = np.random.default_rng([7, number]), self.config.optim.batch_size
        rows = rng.permutation(len(self.loader.captions))[: size * self._bucket]
        if bucketed:
            rows = rows[np.argsort(self.loader.text.lengths[rows], kind="stable")]
        cut = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [cut[place] for place in rng.permutation(len(cut))]

    def train(self, way: Way, number: int, most: int | None = None) -> float:
        """Take the steps of a round, or the first so many; returns the last one's loss."""
        total = torch.zeros(())
        for batch in self.batches(way, self.planned(number, way.bucketed)[:most]):
            total = self._losses(way, batch)
            total.backward()
            self._update(way)
        return float(total.detach())  # on a GPU this waits for it

    def parts(self, way: Way, number: int) -> dict[str, float]:
        """Seconds of a round's steps by part, the device waited for after each."""
        seconds = dict.fromkeys(("forward", "backward", "optimiser"), 0.0)
        for batch in self.batches(way, self.planned(number, way.bucketed)):
            began = self._now()
            total = self._losses(way, batch)
            forward = self._now()
            total.backward()
            backward = self._now()
            self._update(way)
            updated = self._now()
            for name, took in zip(seconds, (forward - began, backward - forward, updated - backward), strict=True):
                seconds[name] += took
        return seconds

    def judge(self, way: Way, rows: Rows) -> tuple[float, float]:
        """Loss of a batch and the norm of its gradient; nothing is changed."""
        (batch,) = self.batches(way, [rows])
        total = self._losses(way, batch)
        total.backward()
        norm = nn.utils.get_total_norm([each.grad for each in self.model.parameters() if each.grad is not None])
        self.model.zero_grad()
        return float(total.detach()), float(norm)

    def batches(self, way: Way, planned: Sequence[Rows]) -> Iterator[Batch]:
        """The batches of these rows on the device, made as the way says."""
        made = map(self.loader.batch, planned) if way.in_memory else self._loader(way)(planned)
        words = None if way.short_captions else self.config.data.max_tokens
        steps = None if way.short_clips else self.longest_clip
        for batch in made:
            yield on_device(padded(batch, steps, words), self._device)

    def _losses(self, way: Way, batch: Batch) -> Tensor:
        with ExitStack() as stack:
            if way.half:
                stack.enter_context(torch.autocast(self._device.type, torch.bfloat16))
            if not way.packed:
                stack.enter_context(patch.object(Positions, "of", lambda mask: Positions(None, mask)))
            if not way.cheap:
                stack.enter_context(patch("supportset.train.model.ops.packed_t5.dropout", F.dropout))
                stack.enter_context(patch.object(Dropout, "forward", nn.Dropout.forward))
            total: Tensor = (self.model if way.own_decoder else self._plain)(batch).total
        return total

    def _optimizer(self, fused: bool | None) -> torch.optim.AdamW:
        groups = self.model.parameter_groups(self.config.optim)
        return torch.optim.AdamW(groups, lr=self.config.optim.learning_rate, weight_decay=0.0, fused=fused)

    def _update(self, way: Way) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        self._optimizers[way.cheap].step()
        self.model.zero_grad()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _loader(self, way: Way) -> Loader:
        key = replace(way, bucketed=True, own_decoder=True, packed=True, cheap=True, half=False)
        if key not in self._loaders:
            if self._pairs is None:
                limit = self.config.data.max_tokens
                text, labels = (
                    each(self._texts, limit) for each in (self.model.tokenize_text, self.model.tokenize_labels)
                )
                self._pairs = PairDataset(self._npy, self._data.train.captions, text, labels)
            collate = Collate(
                None if way.short_clips else self.longest_clip,
                None if way.short_captions else self.config.data.max_tokens,
            )
            self._loaders[key] = Loader(self._pairs, collate, pin=self._device.type == "cuda")
        return self._loaders[key]


def padded(batch: Batch, steps: int | None, words: int | None) -> Batch:
    """The batch with its clips and captions filled up to so many positions; None leaves them as they are."""
    if steps is not None:
        more = steps - batch.features.shape[1]
        features, mask = F.pad(batch.features, (0, 0, 0, more)), F.pad(batch.feature_mask, (0, more))
        batch = replace(batch, features=features, feature_mask=mask)
    if words is not None:
        more = words - batch.text_ids.shape[1]
        ids, mask = F.pad(batch.text_ids, (0, more)), F.pad(batch.text_mask, (0, more))
        labels = batch.labels
        if labels is not None:
            labels = F.pad(labels, (0, words - labels.shape[1]), value=IGNORED)
        batch = replace(batch, text_ids=ids, text_mask=mask, labels=labels)
    return batch


def _with_plain_decoder(model: SupportSetModel) -> SupportSetModel:
    """A model of the same modules, but for the decoder's way to its loss."""
    assert model.decoder is not None
    plain = SupportSetModel(model.config, model.feature_dim, model.text, None)
    plain.video, plain.decoder = model.video, PlainDecoder(model.decoder)  # type: ignore[assignment]
    return plain
