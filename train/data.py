"""Features resident in memory, captions tokenised once, and the batches of each epoch.

What an epoch shows is a function of (seed, epoch) alone, so a run can go on in the middle of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store.aligned import AlignedFeatures
from store.dataset import Caption
from train.batch import Batch
from train.cached_text import TokenFeatures

_BLOCK = 1024  # clips read at once while packing: bounds what is held twice


def thinned(length: int, max_steps: int) -> NDArray[np.int64]:
    """Steps kept of a clip of ``length`` steps: all, or the middles of ``max_steps`` equal parts."""
    if length <= max_steps:
        return np.arange(length)
    return ((np.arange(max_steps) + 0.5) * length / max_steps).astype(np.int64)


class ResidentFeatures:
    """Features of some clips in one packed array in memory, in the dtype of the store.

    Parameters
    ----------
    source : aligned feature sets that hold all of ``clip_ids``
    clip_ids : order of the rows
    max_steps : longer clips are thinned evenly to this many steps while loading

    Attributes
    ----------
    values : (ΣT, D) tensor as stored
    lengths : (N,) int64, steps of each clip
    """

    def __init__(self, source: AlignedFeatures, clip_ids: Sequence[str], max_steps: int) -> None:
        self.clip_ids = list(clip_ids)
        self.dim = source.dim
        self.lengths = np.minimum(source.lengths(self.clip_ids), max_steps)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        packed = np.empty((self.offsets[-1], self.dim), source.dtype)
        for start in range(0, len(self.clip_ids), _BLOCK):
            values, offsets = source.read(self.clip_ids[start : start + _BLOCK])
            bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
            kept = np.concatenate([first + thinned(last - first, max_steps) for first, last in bounds])
            first_row = self.offsets[start]
            packed[first_row : first_row + len(kept)] = values[kept]
        self.values = torch.from_numpy(packed)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def gather(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Padded features of some clips.

        Returns
        -------
        (C, T, D) in the stored dtype, zero where padded, T being the longest of these clips; (C, T) bool mask
        """
        lengths = self.lengths[rows]
        steps = int(lengths.max(initial=1))
        padded = torch.zeros((len(rows), steps, self.dim), dtype=self.values.dtype)
        source, target = self.values.numpy(), padded.numpy()  # numpy slices copy faster than torch's on busy cores
        for row, (start, length) in enumerate(zip(self.offsets[rows].tolist(), lengths.tolist(), strict=True)):
            target[row, :length] = source[start : start + length]
        return padded, torch.from_numpy(np.arange(steps)[None] < lengths[:, None])


class TokenTable:
    """Token sequences of all captions, packed.

    Parameters
    ----------
    sequences : tokens of each caption, without padding
    pad_id : what fills the end of the shorter ones; also the only token of a caption that has none
    """

    def __init__(self, sequences: Sequence[Sequence[int]], pad_id: int) -> None:
        filled = [list(tokens) or [pad_id] for tokens in sequences]
        self.lengths = np.asarray([len(tokens) for tokens in filled], dtype=np.int64)
        self.ids = np.asarray([token for tokens in filled for token in tokens], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])[:-1].astype(np.int64)
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.lengths)

    def pad(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Tokens of some captions, (N, L) long, and their (N, L) bool mask; L is the longest of these."""
        lengths = self.lengths[rows][:, None]
        columns = np.arange(int(lengths.max(initial=1)))[None]
        mask = columns < lengths
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = self.ids[(self.starts[rows][:, None] + columns)[mask]]
        return torch.from_numpy(ids), torch.from_numpy(mask)


class TrainingData:
    """Cuts the training captions into batches, epoch after epoch.

    Parameters
    ----------
    captions : training captions, every one of a clip in ``features``
    features : resident features
    text : what the text encoder reads of each caption: its tokens, or features of them from the store
    labels : tokens of each caption for the decoder, None without captioning
    batch_size : captions in a batch
    per_epoch : ``one`` random caption a clip, or ``all`` captions
    seed : with the epoch's number, decides everything random
    bucket : batches that are cut together, by length of caption, so that little is padded; 1 cuts at random
    """

    def __init__(
        self,
        captions: Sequence[Caption],
        features: ResidentFeatures,
        text: TokenTable | TokenFeatures,
        labels: TokenTable | None,
        *,
        batch_size: int,
        per_epoch: Literal["one", "all"],
        seed: int,
        bucket: int = 1,
    ) -> None:
        row_of = {clip_id: row for row, clip_id in enumerate(features.clip_ids)}
        self.captions = list(captions)
        self.features, self.text, self.labels = features, text, labels
        self.clip_rows = np.asarray([row_of[caption.clip_id] for caption in captions], dtype=np.int64)
        self.batch_size, self.per_epoch, self.seed, self.bucket = batch_size, per_epoch, seed, bucket

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows of the captions that the epoch shows, in its order."""
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self.captions))
        if self.per_epoch == "all":
            return shuffled
        # The first caption of each clip in a random order is a random caption of it, in a random order.
        _, first = np.unique(self.clip_rows[shuffled], return_index=True)
        return shuffled[np.sort(first)]

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Rows of the captions in each batch of the epoch.

        The last batch may be smaller. A batch whose captions are all of one clip is left out: it has no negative and
        no support set.
        """
        order = self.order(epoch)
        if self.bucket > 1:
            order = self._by_length(order, epoch)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return [rows for rows in batches if len(np.unique(self.clip_rows[rows])) >= 2]

    def _by_length(self, order: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """The order, cut into buckets of some batches; in each, captions by length and then whole batches at random."""
        rng = np.random.default_rng([self.seed, epoch, 1])
        size, arranged = self.batch_size, []
        for start in range(0, len(order), self.bucket * size):
            rows = order[start : start + self.bucket * size]
            rows = rows[np.argsort(self.text.lengths[rows], kind="stable")]
            whole = len(rows) // size * size  # what is left over stays last, so that only the last batch is small
            arranged += [rows[:whole].reshape(-1, size)[rng.permutation(whole // size)].ravel(), rows[whole:]]
        return np.concatenate(arranged)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, before any is left out."""
        shown = len(self.captions) if self.per_epoch == "all" else len(np.unique(self.clip_rows))
        return -(-shown // self.batch_size)

    def planned(self, epoch: int) -> int:
        """Batches of an epoch, those of one clip alone left out."""
        return len(self.plan(epoch))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from its batch number ``start`` on."""
        for rows in self.plan(epoch)[start:]:
            yield self.batch(rows)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Assemble one batch; each clip stands in it once, however many of its captions do."""
        clips, caption_clip = np.unique(self.clip_rows[rows], return_inverse=True)
        features, feature_mask = self.features.gather(clips)
        text_ids, text_mask = self.text.pad(rows)
        labels = None
        if self.labels is not None:
            labels, label_mask = self.labels.pad(rows)
            labels = labels.masked_fill(~label_mask, -100)
        return Batch(
            features=features,
            feature_mask=feature_mask,
            text_ids=text_ids,
            text_mask=text_mask,
            labels=labels,
            caption_clip=torch.from_numpy(caption_clip),
            clip_ids=[self.features.clip_ids[row] for row in clips],
            caption_ids=[self.captions[row].caption_id for row in rows],
        )
