"""The moments of stored clips, in seconds of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from mimetypes import guess_type
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.search.moments import Moment, find_moments
from supportset.search.parts import part_blocks

if TYPE_CHECKING:
    from supportset.search.retriever import Retriever
    from supportset.store.read.aligned import AlignedFeatures


def moments_of_clips(
    retriever: Retriever,
    features: AlignedFeatures,
    files: Mapping[str, tuple[str | None, float]],
    query: NDArray[np.float64],
    numbers: NDArray[np.int64],
    base: float,
) -> Iterator[Moment]:
    """Find the moments of each clip.

    Parameters
    ----------
    retriever : Retriever
    features : AlignedFeatures
    files : mapping
        As `clip_files` gives it.
    query : (d,) float64
        Of unit length.
    numbers : (N,) int64
        Of clips of ``features``, which are read block by block.
    base : float
        What unrelated footage scores for the query.

    Yields
    ------
    Moment
        With the clip. That of a picture begins and ends at 0.
    """
    for block, parts in part_blocks(retriever, features, numbers):
        cosines = cosine_scores(query[None], unit_rows(parts.vectors))[0]
        for place, number in enumerate(block.tolist()):
            own, clip_id = slice(parts.offsets[place], parts.offsets[place + 1]), features.clip_ids[number]
            path, start = files[clip_id]
            found = find_moments(cosines[own], parts.spans[own], base)
            if is_picture(path, parts.spans[own]):
                start, found = 0.0, [Moment(0.0, 0.0, found[0].score)]
            for each in found:
                yield Moment(start + each.start_s, start + each.end_s, each.score, clip_id)


def is_picture(path: str | None, spans: NDArray[np.float64]) -> bool:
    """Whether a clip is a still picture, whose steps are stored as one second."""
    kind = guess_type(path or "")[0] or ""
    return kind.startswith("image/") and bool((spans == (0.0, 1.0)).all())
