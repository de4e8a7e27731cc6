"""Several feature sets of one dataset as one (the paper's two experts), aligned by clip and time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files.memory import empty_aligned
from supportset.store.format.shard import Array
from supportset.store.read.feature_set import FeatureSet


class AlignedFeatures:
    """Feature sets read together: their common clips, on the time grid of the first set.

    Each step of the first set gets, from each other set, the mean of the steps that overlap it in time, weighted by the
    overlap; or the nearest step if none overlaps. A single set is unchanged.

    Parameters
    ----------
    sets : sequence of FeatureSet
        At least one.
    without : collection of str
        Clips to leave out, such as those of a dataset whose videos are gone.

    Attributes
    ----------
    sets : sequence of FeatureSet
        The sets.
    left_out : list of str
        Clips that all sets have, and that are left out.
    dim : int
        Sum of the sets' dims.
    dtype : numpy.dtype
        The smallest that holds all of theirs.
    missing : dict
        By set (its folder's name), the clips that only other sets have.

    Raises
    ------
    UsageError
        No set, or sets without a common clip.
    """

    def __init__(self, sets: Sequence[FeatureSet], without: Collection[str] = frozenset()) -> None:
        if not sets:
            raise UsageError("no feature set is named: give at least one, as DATASET/WORDS")
        self.sets = list(sets)
        self.dim = sum(features.dim for features in self.sets)
        self.dtype: np.dtype[Any] = np.result_type(*(features.dtype for features in self.sets))
        self._without = frozenset(without)
        self.left_out = sorted(each for each in self._without if all(each in features for features in self.sets))
        anywhere = list(dict.fromkeys(clip_id for features in self.sets for clip_id in features.clip_ids))
        self.missing = {
            features.path.name: absent
            for features in self.sets
            if (absent := [clip_id for clip_id in anywhere if clip_id not in features])
        }
        if anywhere and not self.clip_ids and not self.left_out:
            names = " and ".join(str(features.path) for features in self.sets)
            raise UsageError(f"{names} have no clip in common: name sets of one dataset")

    @cached_property
    def clip_ids(self) -> list[str]:
        """Ids of the clips that all sets have and that are not left out, in the order of the first."""
        first, *others = self.sets
        if not others and not self._without:
            return first.clip_ids
        return [
            clip_id
            for clip_id in first.clip_ids
            if clip_id not in self._without and all(clip_id in features for features in others)
        ]

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {clip_id: number for number, clip_id in enumerate(self.clip_ids)}

    @cached_property
    def _rows(self) -> list[Array]:
        """Of each set, its rows of the common clips."""
        return [features.find(self.clip_ids) for features in self.sets]

    def __len__(self) -> int:
        """Number of :attr:`clip_ids`."""
        return len(self.clip_ids)

    def __contains__(self, clip_id: object) -> bool:
        """Whether all sets have a clip, and it is not left out."""
        return clip_id not in self._without and clip_id in (self._number_of if len(self.sets) > 1 else self.sets[0])

    def find(self, clip_ids: Iterable[str]) -> Array:
        """Look up the numbers of clips, (N,) int64, for :meth:`read_rows`.

        Raises
        ------
        SupportsetError
            A clip that one of the sets has no features of.
        """
        if len(self.sets) == 1:
            return self.sets[0].find(clip_ids)
        clip_ids = list(clip_ids)
        try:
            return np.array(list(map(self._number_of.__getitem__, clip_ids)), dtype=np.int64)
        except KeyError:
            for features in self.sets:
                features.find(clip_ids)  # the one that lacks a clip says what it knows of it
            raise SupportsetError(f"{clip_ids[0]!r} or another of {len(clip_ids)} clips is left out") from None

    def lengths(self, clip_ids: Iterable[str]) -> Array:
        """Number of steps of each clip, (N,) int64: those of the first set."""
        return self.sets[0].lengths(clip_ids)

    def lengths_of(self, rows: Array) -> Array:
        """The same for numbers that :meth:`find` returned."""
        return self.sets[0].lengths_of(self._of_set(0, rows))

    def read_timestamps(self, clip_ids: Iterable[str]) -> Array:
        """Start and end of each step, (ΣT, 2) float64 seconds: those of the first set."""
        return self.sets[0].read_timestamps(clip_ids)

    def prefetch(self, rows: Array) -> None:
        """Request clips that will be read soon, and return at once."""
        for number, features in enumerate(self.sets):
            features.prefetch(self._of_set(number, rows))

    def read(self, clip_ids: Iterable[str]) -> tuple[Array, Array]:
        """Copy the features of clips, in the order asked.

        Returns
        -------
        values : (ΣT, D)
            With the sets' columns side by side.
        offsets : (N + 1,) int64
            Clip ``i`` has the rows ``offsets[i]:offsets[i + 1]``.

        Raises
        ------
        SupportsetError
            A clip that one of the sets has no features of.
        """
        return self.read_rows(self.find(clip_ids))

    def read_rows(self, rows: Array, out: Array | None = None) -> tuple[Array, Array]:
        """Like :meth:`read`, for numbers that :meth:`find` returned.

        Parameters
        ----------
        rows : (N,) int64
        out : (at least ΣT, D) array, optional
            To copy into; what is returned views it.
        """
        first, *others = self.sets
        if not others:
            return first.read_rows(rows, out)
        values, offsets = first.read_rows(self._of_set(0, rows))
        out = empty_aligned((len(values), self.dim), self.dtype) if out is None else out[: len(values)]
        out[:, : first.dim] = values
        grid, _ = first.read_row_timestamps(self._of_set(0, rows))
        column = first.dim
        for number, features in enumerate(others, start=1):
            of_set = self._of_set(number, rows)
            source, source_offsets = features.read_rows(of_set)
            times, _ = features.read_row_timestamps(of_set)
            for i in range(len(rows)):
                here, there = slice(*offsets[i : i + 2]), slice(*source_offsets[i : i + 2])
                out[here, column : column + features.dim] = resample(source[there], times[there], grid[here])
            column += features.dim
        return out, offsets

    def _of_set(self, number: int, rows: Array) -> Array:
        return rows if len(self.sets) == 1 else self._rows[number][rows]


def resample(values: Array, times: Array, grid: Array) -> Array:
    """Resample steps to another time grid.

    Parameters
    ----------
    values : (S, D) array
        Features.
    times : (S, 2) seconds array
        Start and end of each.
    grid : (T, 2) seconds array
        Start and end of the steps wanted.

    Returns
    -------
    (T, D) float
        For each wanted step the mean of the steps that overlap it, weighted by the overlap; the nearest (by their
        middles) where none does. The values themselves where the grids are equal.
    """
    if not len(values):
        raise SupportsetError("no steps to resample")
    if times.shape == grid.shape and np.array_equal(times, grid):
        return values
    overlap = np.minimum(grid[:, None, 1], times[None, :, 1]) - np.maximum(grid[:, None, 0], times[None, :, 0])
    weights = np.maximum(overlap, 0.0)  # (T, S)
    total = weights.sum(axis=1)
    alone = total == 0
    if alone.any():
        distance = np.abs(grid[alone].mean(axis=1)[:, None] - times.mean(axis=1)[None, :])
        weights[alone, distance.argmin(axis=1)] = 1.0
        total[alone] = 1.0
    return (weights / total[:, None]).astype(np.float32) @ values.astype(np.float32)
