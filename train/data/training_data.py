"""Tokenise captions once, and assemble the batches of each epoch.

The batches of an epoch depend on (seed, epoch) only, so a run can resume in the middle of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supportset.store.format.dataset import Caption
from supportset.store.read.padding import Layout
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.data.packed_captions import PackedCaptions
from supportset.train.model.batch import Batch, RankShard

AHEAD = 2  # batches to prefetch, where the features are on disk
_TOGETHER = 32  # batches that are laid out at once: few enough to stay in the processor's cache


class TokenTable(PackedCaptions):
    """Token sequences of all captions, packed.

    Parameters
    ----------
    sequences : Sequence
        Tokens of each caption, without padding.
    pad_id : int
        The only token of a caption that has none.
    filling : int, optional
        What fills the end of the shorter ones, by default ``pad_id``.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], pad_id: int, filling: int | None = None) -> None:
        filled = [list(tokens) or [pad_id] for tokens in sequences]
        super().__init__(np.asarray([len(tokens) for tokens in filled], dtype=np.int64))
        last = pad_id if filling is None else filling
        self.ids = np.asarray([*(token for tokens in filled for token in tokens), last], dtype=np.int64)

    def batches(self, layout: Layout) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a layout, (N, L) long each."""
        ids, first = self.ids.take(layout.rows), 0
        for _, real in layout:
            last = first + real.size
            yield torch.from_numpy(ids[first:last].reshape(real.shape)), torch.from_numpy(real)
            first = last


class TrainingData:
    """Cuts the training captions into batches, epoch after epoch.

    Parameters
    ----------
    captions : sequence of Caption
        Training captions, every one of a clip in ``features``.
    features : ClipFeatures
        Resident features.
    text : PackedCaptions
        What the text encoder reads of each caption: its tokens, or features of them from the store.
    labels : TokenTable or None
        Tokens of each caption for the decoder, filled with `IGNORED`; None without captioning.
    batch_size : int
        Captions in a batch.
    per_epoch : str
        ``one`` random caption a clip, or ``all`` captions.
    seed : int
        With the epoch's number, decides everything random.
    bucket : int
        Batches that are cut together by length, so that little is padded; 1 cuts at random.
    bucket_by : str
        Whose length: the ``caption``'s tokens, or the ``clip``'s steps.
    rank, processes : int
        Which share of each batch is read, where several processes train together.
    """

    def __init__(
        self,
        captions: Sequence[Caption],
        features: ClipFeatures,
        text: PackedCaptions,
        labels: TokenTable | None,
        *,
        batch_size: int,
        per_epoch: Literal["one", "all"],
        seed: int,
        bucket: int = 1,
        bucket_by: Literal["caption", "clip"] = "caption",
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        row_of = {clip_id: row for row, clip_id in enumerate(features.clip_ids)}
        self.captions = list(captions)
        self.features, self.text, self.labels = features, text, labels
        self._same_tokens = labels is not None and np.array_equal(
            labels.lengths, text.lengths
        )  # one tokenizer for both
        self.clip_rows = np.asarray([row_of[caption.clip_id] for caption in captions], dtype=np.int64)
        self.batch_size, self.per_epoch, self.seed, self.bucket = batch_size, per_epoch, seed, bucket
        self.rank, self.processes = rank, processes
        self._lengths = text.lengths if bucket_by == "caption" else features.lengths[self.clip_rows]
        # Arrays of strings, for a batch's names are looked up by its rows.
        self._clip_ids = np.array(features.clip_ids, dtype=object)
        self._caption_ids = np.array([caption.caption_id for caption in captions], dtype=object)

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
        starts = np.arange(0, len(order), self.batch_size)
        if not len(starts):
            return []
        clips = self.clip_rows[order]
        several = np.minimum.reduceat(clips, starts) != np.maximum.reduceat(clips, starts)
        return [order[start : start + self.batch_size] for start in starts[several].tolist()]

    def _by_length(self, order: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Cut the order into buckets of some batches, sort each by length, and shuffle its batches."""
        rng = np.random.default_rng([self.seed, epoch, 1])
        size, arranged = self.batch_size, []
        for start in range(0, len(order), self.bucket * size):
            rows = order[start : start + self.bucket * size]
            rows = rows[np.argsort(self._lengths[rows], kind="stable")]
            full = len(rows) // size * size  # the remainder stays last, so that only the last batch is small
            arranged += [rows[:full].reshape(-1, size)[rng.permutation(full // size)].ravel(), rows[full:]]
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
        planned = self.plan(epoch)[start:]
        for first in range(0, len(planned), _TOGETHER):
            together = planned[first : first + _TOGETHER]
            assembled = self._assembled(together)
            for number in range(first, first + len(together)):
                if self.features.place == "disk":
                    for rows in planned[number + (AHEAD if number else 0) : number + AHEAD + 1]:
                        self._prefetch(rows)
                yield next(assembled)

    def _prefetch(self, rows: NDArray[np.int64]) -> None:
        """Prefetch the clips of a later batch that this rank reads."""
        clips = np.unique(self.clip_rows[rows])
        if self.processes > 1:
            clips = clips[self._shard(clips, len(rows)).clip_rows]
        self.features.prefetch(clips)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Assemble one batch, with each clip once, also if several of its captions are in the batch."""
        return next(self._assembled([rows]))

    def _assembled(self, planned: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """Assemble batches one after the other, all laid out at once."""
        rows, sizes = np.concatenate(planned), np.array([len(each) for each in planned])
        clips, caption_clip, clip_sizes = self._clips_once(rows, sizes)
        clip_ids, caption_ids = self._clip_ids[clips].tolist(), self._caption_ids[rows].tolist()
        shards: list[RankShard | None] = [None] * len(planned)
        read, read_sizes, read_clips, read_clip_sizes = rows, sizes, clips, clip_sizes
        if self.processes > 1:
            clips_of = np.split(clips, np.cumsum(clip_sizes)[:-1])
            parts = [self._shard(*each) for each in zip(clips_of, sizes.tolist(), strict=True)]
            read, read_sizes = _runs(planned, [part.caption_rows for part in parts])
            read_clips, read_clip_sizes = _runs(clips_of, [part.clip_rows for part in parts])
            shards[:] = parts
        layout = self.text.lay_out(read, read_sizes)
        batches: list[Iterator[Any]] = [
            iter(self.features.lay_out(read_clips, read_clip_sizes)),
            self.text.batches(layout),
        ]
        if self.labels is not None:
            batches.append(self.labels.batches(layout if self._same_tokens else self.labels.lay_out(read, read_sizes)))
        ends = [np.cumsum(each).tolist() for each in (sizes, clip_sizes, read_clip_sizes)]
        first = first_clip = first_read = 0
        for shard, last, last_clip, last_read, places, text, *labels in zip(shards, *ends, *batches, strict=True):
            features, feature_mask = self.features.gather(read_clips[first_read:last_read], places)
            yield Batch(
                features=features,
                feature_mask=feature_mask,
                text_ids=text[0],
                text_mask=text[1],
                labels=labels[0][0] if labels else None,
                caption_clip=torch.from_numpy(caption_clip[first:last]),
                clip_ids=clip_ids[first_clip:last_clip],
                caption_ids=caption_ids[first:last],
                shard=shard,
            )
            first, first_clip, first_read = last, last_clip, last_read

    def _shard(self, clips: NDArray[np.int64], captions: int) -> RankShard:
        steps = int(self.features.lengths[clips].max(initial=1))
        return RankShard.of(self.rank, self.processes, len(clips), captions, steps)

    def _clips_once(
        self, rows: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Clips of each batch, each once, batch after batch; which of its batch's clips a caption has; their counts."""
        batch_of = np.repeat(np.arange(len(sizes)), sizes)
        keys, place = np.unique(batch_of * len(self._clip_ids) + self.clip_rows[rows], return_inverse=True)
        counts = np.bincount(keys // len(self._clip_ids), minlength=len(sizes))
        return keys % len(self._clip_ids), place - (np.cumsum(counts) - counts)[batch_of], counts


def _runs(arrays: Sequence[NDArray[np.int64]], rows: Sequence[slice]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A run of each array, one after the other, and their lengths."""
    runs = [array[run] for array, run in zip(arrays, rows, strict=True)]
    return np.concatenate(runs), np.array([len(run) for run in runs])
