"""What a retriever is: text and clips as vectors of one space, and where they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.search.clip_files import clip_files
from supportset.store.errors import UsageError

if TYPE_CHECKING:
    from supportset.search.media import MediaEncoder
    from supportset.search.text_weighted import TextWeighted
    from supportset.store.format.dataset import Dataset
    from supportset.store.read.aligned import AlignedFeatures

_VALUES = 1 << 24  # numbers in memory at once: 128 MB in float64


@dataclass(frozen=True)
class Clips:
    """Clips of a store with features that a retriever reads.

    Attributes
    ----------
    dataset : Dataset
        The tables.
    features : AlignedFeatures
        Compared with their checksums when they are read.
    protocol : str or None
        The one that a split belongs to if none is named; None: there are several to choose from.
    kept : Path
        The folder that keeps the embeddings of clips and parts.
    """

    dataset: Dataset
    features: AlignedFeatures
    protocol: str | None
    kept: Path

    @cached_property
    def content(self) -> NDArray[np.uint64]:
        """What decides the embeddings of each clip besides the recipes: checksums of values and timestamps, (N, w)."""
        ids = self.features.clip_ids
        # Times decide windows, and which steps of two sets belong together
        sums = [each.checksums(ids, part) for each in self.features.sets for part in ("values", "timestamps")]
        return np.stack(sums, axis=1).astype(np.uint64, copy=False)

    @cached_property
    def files(self) -> Mapping[str, tuple[str | None, float]]:
        """`clip_files` of the library."""
        return clip_files(self.dataset, self.features)


class Retriever(ABC):
    """A model that compares text with clips: a trained run, or an encoder pair without training.

    Attributes
    ----------
    weighting : TextWeighted or None
        How a clip's steps are weighted by each text; None: a score is the product of two embeddings.
    media : MediaEncoder or None
        Computes the features of files; None while the feature sets are not known.
    """

    weighting: TextWeighted | None = None
    media: MediaEncoder | None = None

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What it is, as JSON: run or encoder, hashes of weights, features, options."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (N, d) of unit length. Safe from several threads."""

    @abstractmethod
    def encode_clips(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32]:
        """Embed clips by their features, N arrays (T, D): (N, d) of unit length."""

    def encode_steps(self, clips: Sequence[ArrayLike]) -> NDArray[np.float32] | None:
        """Embed each step of clips: (ΣT, d) of unit length, clip after clip; None where steps have no embedding."""
        return None

    def encode_media(
        self, path: str | Path, start_s: float | None = None, end_s: float | None = None
    ) -> NDArray[np.float32]:
        """Embed an image or video file, or seconds of a video, as a clip of the features: (d,) of unit length.

        Raises
        ------
        UsageError
            See `MediaEncoder.features`; a trained run without an opened gallery, whose features are not known yet.
        """
        if self.media is None:
            raise UsageError(f"query: {path}: open a gallery first: its features say how a file is encoded")
        return self.encode_clips([self.media.features(path, start_s, end_s)])[0]

    @abstractmethod
    def open_clips(self, store: str | Path | None = None, dataset: str | None = None) -> Clips:
        """Open a dataset of a store; by default the one that the retriever belongs to."""

    def reopened(self) -> Retriever:
        """The same model on the store as it is now."""
        return self

    @abstractmethod
    def check_text(self) -> None:
        """Load what reads text, so that an error is raised before clips are embedded."""

    @abstractmethod
    def key(self) -> list[str]:
        """What decides the embedding of a clip besides its features: hashes and options."""

    def encode_stored(self, features: AlignedFeatures, clip_ids: Sequence[str]) -> NDArray[np.float32]:
        """Embed any number of stored clips, (N, d); they are read block by block."""
        blocks = [
            self.encode_clips(np.split(values, offsets[1:-1])) for _, values, offsets in read_blocks(features, clip_ids)
        ]
        return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)


def read_blocks(
    features: AlignedFeatures, clip_ids: Sequence[str]
) -> Iterator[tuple[slice, NDArray[np.floating], NDArray[np.int64]]]:
    """Read stored clips block by block, as many as fit into a bounded memory.

    Yields
    ------
    block : slice
        Which of ``clip_ids``.
    values : (ΣT, D) float
        Their steps, clip after clip.
    offsets : (N + 1,) int64
        Clip ``i`` of the block has the rows ``offsets[i]:offsets[i + 1]``.
    """
    if len(clip_ids):
        for block in whole_clips(features.lengths(clip_ids), _VALUES // features.dim):
            yield block, *features.read(clip_ids[block])


def whole_clips(lengths: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Cut clips, of (N,) steps each, into runs of no more than ``most`` steps together, and at least one clip."""
    ends, start = np.cumsum(lengths), 0
    while start < len(ends):
        room = (ends[start - 1] if start else 0) + most
        stop = max(start + 1, int(np.searchsorted(ends, room, side="right")))
        yield slice(start, stop)
        start = stop


def check_steps(number: int, clip: ArrayLike, dim: int) -> NDArray[np.float32]:
    """Return a clip's features as (T, dim) float32; UsageError names a clip of another shape."""
    values = np.asarray(clip, np.float32)
    if values.ndim != 2 or not len(values) or values.shape[1] != dim:
        raise UsageError(f"clip {number}: features of shape {values.shape}, not (T, {dim})")
    return values
