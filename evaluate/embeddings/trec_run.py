"""A TREC run: lines ``QUERY Q0 CLIP RANK SCORE TAG``, the clips that a system found for each query."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.embeddings.ids import RowIds
from supportset.store.errors import UsageError

LARGEST = 200_000_000  # scores of the matrix that it becomes


def read_run(path: str | Path) -> tuple[RowIds, RowIds, NDArray[np.float64]]:
    """Read a run as a score matrix.

    Returns
    -------
    queries, clips : RowIds
        In the order in which the run names them.
    scores : (Q, G) float64
        -inf where the run does not list a clip: it is not found.

    Raises
    ------
    UsageError
        A line of another form, a score that is not finite, or a clip that is listed twice for a query.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}): give a TREC run") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text: give a TREC run, lines 'QUERY Q0 CLIP RANK SCORE TAG'") from None
    queries: dict[str, int] = {}
    clips: dict[str, int] = {}
    found: dict[tuple[int, int], float] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            query, _, clip, _, score, _ = line.split()
            value = float(score)
        except ValueError:
            raise UsageError(f"{path}: line {number} is {line[:60]!r}, not 'QUERY Q0 CLIP RANK SCORE TAG'") from None
        if not np.isfinite(value):
            raise UsageError(f"{path}: line {number}: the score {score} is not finite")
        place = queries.setdefault(query, len(queries)), clips.setdefault(clip, len(clips))
        if place in found:
            raise UsageError(f"{path}: line {number} lists clip {clip!r} for query {query!r} again")
        found[place] = value
    if not found:
        raise UsageError(f"{path}: is empty: give a TREC run, lines 'QUERY Q0 CLIP RANK SCORE TAG'")
    if len(queries) * len(clips) > LARGEST:
        raise UsageError(f"{path}: {len(queries):,} x {len(clips):,} scores are too many: give embeddings")
    scores = np.full((len(queries), len(clips)), -np.inf, np.float64)
    scores[tuple(np.array(list(found)).T)] = list(found.values())
    return RowIds(str(path), tuple(queries)), RowIds(str(path), tuple(clips)), scores
