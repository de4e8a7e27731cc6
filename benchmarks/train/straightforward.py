"""The step as someone who knows PyTorch and transformers writes it at first: what ours is measured beside.

One ``.npy`` a clip, a Dataset of clip-caption pairs and a DataLoader with two workers; each clip padded to the longest
of the dataset; each caption tokenised ahead and padded to the configured number of tokens; the library's decoder on all
of them; logits of the whole vocabulary for every position, and a cross entropy that ignores the padded ones; float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.batch_list import BatchList
from supportset.store.format.dataset import Caption
from supportset.train.model.batch import Batch
from supportset.train.model.decoder import IGNORED, CaptionDecoder

WORKERS = 2


class PlainDecoder(nn.Module):
    """The caption loss by the library's decoder, on the weights of ours."""

    def __init__(self, ours: CaptionDecoder) -> None:
        super().__init__()
        self.t5, self.connect, self.scale = ours.t5, ours.connect, ours.scale

    def forward(self, codes: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """(N,) mean negative log-likelihood of each caption's tokens."""
        hidden = self.t5.decoder(
            input_ids=self.t5._shift_right(labels),
            encoder_hidden_states=self.connect(codes),
            encoder_attention_mask=mask.long(),
            use_cache=False,
        ).last_hidden_state
        logits = self.t5.lm_head(hidden * self.scale)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        tokens = labels != IGNORED
        return losses.view_as(labels).sum(1) / tokens.sum(1)


class PairDataset(Dataset[dict[str, Any]]):
    """Clip and caption, one ``.npy`` read an item."""

    def __init__(
        self, folder: Path, captions: Sequence[Caption], text: Sequence[list[int]], labels: Sequence[list[int]]
    ) -> None:
        self._folder, self._captions, self._text, self._labels = str(folder), captions, text, labels

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, row: int) -> dict[str, Any]:
        caption = self._captions[row]
        return {
            "clip": torch.from_numpy(np.load(f"{self._folder}/{caption.clip_id}.npy")),
            "text": self._text[row],
            "labels": self._labels[row],
            "clip_id": caption.clip_id,
            "caption_id": caption.caption_id,
        }


class Collate:
    """Pads a list of items into a batch, each clip once in it: a support set holds a clip once.

    Parameters
    ----------
    steps, words : int or None
        What clips and captions are padded to; None: the longest of the batch.
    """

    def __init__(self, steps: int | None, words: int | None) -> None:
        self._steps, self._words = steps, words

    def __call__(self, items: list[dict[str, Any]]) -> Batch:
        first = {item["clip_id"]: item["clip"] for item in items}
        names = sorted(first)
        lengths = torch.tensor([len(first[name]) for name in names])
        steps = self._steps or int(lengths.max())
        features = torch.zeros(len(names), steps, first[names[0]].shape[1])
        for row, name in enumerate(names):
            features[row, : len(first[name])] = first[name]
        text, text_mask = self._pad([item["text"] for item in items])
        labels, real = self._pad([item["labels"] for item in items])
        return Batch(
            features=features,
            feature_mask=torch.arange(steps) < lengths[:, None],
            text_ids=text,
            text_mask=text_mask,
            labels=labels.masked_fill(~real, IGNORED),
            caption_clip=torch.tensor([names.index(item["clip_id"]) for item in items]),
            clip_ids=names,
            caption_ids=[item["caption_id"] for item in items],
        )

    def _pad(self, sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
        words = self._words or max(map(len, sequences))
        ids = torch.zeros(len(sequences), words, dtype=torch.long)
        for row, tokens in enumerate(sequences):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids, torch.arange(words) < torch.tensor([len(tokens) for tokens in sequences])[:, None]


class Loader:
    """A DataLoader whose workers live on, and that takes each round's batches from a list."""

    def __init__(self, dataset: PairDataset, collate: Collate, pin: bool = False) -> None:
        self._batches = BatchList()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._batches,
            num_workers=WORKERS,
            collate_fn=collate,
            persistent_workers=True,
            pin_memory=pin,
        )

    def __call__(self, planned: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """The batches of these rows."""
        self._batches.rows = [rows.tolist() for rows in planned]
        return iter(self._loader)
