"""The parts of clips that are compared with a query, so that a moment can be found: steps, or windows of steps.

A zero-shot retriever embeds each step. A trained run embeds whole clips, so a window of steps is embedded as a clip is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.search.retriever import whole_clips

if TYPE_CHECKING:
    from supportset.search.retriever import Retriever
    from supportset.store.read.aligned import AlignedFeatures

WINDOW_S = 8.0  # of a trained run; windows begin every half window

_VALUES = 1 << 22  # numbers of features in memory at once


@dataclass(frozen=True)
class Parts:
    """Embedded parts of N clips, clip after clip.

    Attributes
    ----------
    vectors : (P, d) float32
        Of unit length.
    spans : (P, 2) float64
        Seconds from the clip's start; windows overlap.
    offsets : (N + 1,) int64
        Parts ``offsets[i]:offsets[i + 1]`` are those of clip i.
    """

    vectors: NDArray[np.float32]
    spans: NDArray[np.float64]
    offsets: NDArray[np.int64]


def windows(spans: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Cut the steps of a clip, (T, 2) seconds, into windows: first step, and the one after the last.

    Examples
    --------
    >>> seconds = np.arange(20.0)
    >>> windows(np.stack([seconds, seconds + 1], axis=1))
    [(0, 8), (4, 12), (8, 16), (12, 20)]
    """
    step = float(np.median(spans[:, 1] - spans[:, 0]))
    size = min(len(spans), max(1, round(WINDOW_S / step))) if step > 0 else 1
    starts = list(range(0, len(spans) - size, max(1, size // 2)))
    return [(start, start + size) for start in [*starts, len(spans) - size]]


def encode_parts(retriever: Retriever, clips: Sequence[ArrayLike], spans: Sequence[NDArray[np.float64]]) -> Parts:
    """Embed the parts of clips.

    Parameters
    ----------
    retriever : Retriever
        Steps are the parts where it embeds them.
    clips : sequence of (T, D) arrays
        Features.
    spans : sequence of (T, 2) float64
        Start and end of each step in seconds.
    """
    steps = retriever.encode_steps(clips)
    if steps is not None:
        return Parts(steps, np.concatenate(spans), np.cumsum([0, *map(len, clips)], dtype=np.int64))  # type: ignore[arg-type]
    cuts = [windows(each) for each in spans]
    pieces = [np.asarray(clip)[a:b] for clip, cut in zip(clips, cuts, strict=True) for a, b in cut]
    times = [(each[a:b, 0].min(), each[a:b, 1].max()) for each, cut in zip(spans, cuts, strict=True) for a, b in cut]
    offsets = np.cumsum([0, *map(len, cuts)], dtype=np.int64)
    return Parts(retriever.encode_clips(pieces), np.asarray(times, np.float64), offsets)


def read_parts(retriever: Retriever, features: AlignedFeatures, clip_ids: Sequence[str]) -> Parts:
    """Read stored clips and embed their parts."""
    values, offsets = features.read(clip_ids)
    times = features.read_timestamps(clip_ids)
    return encode_parts(retriever, np.split(values, offsets[1:-1]), np.split(times, offsets[1:-1]))


def part_blocks(
    retriever: Retriever, features: AlignedFeatures, numbers: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Parts]]:
    """Read stored clips and embed their parts, block by block, as many clips as fit into a bounded memory.

    Yields
    ------
    numbers : (M,) int64
        Of clips, some of those asked for after others.
    parts : Parts
        Theirs.
    """
    ids = [features.clip_ids[number] for number in numbers]
    for block in whole_clips(features.lengths(ids), _VALUES // features.dim):
        yield numbers[block], read_parts(retriever, features, ids[block])
