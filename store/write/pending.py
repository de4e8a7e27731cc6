"""A shard that is being filled: rows of its index, and growing arrays whose memory is reused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from supportset.store.errors import InvalidFeatures, ValueOverflow
from supportset.store.format.index import SCHEMA
from supportset.store.format.shard import Array, ShardArrays

FIRST_ROWS = 1024  # capacity in steps at first; doubled when it is too small


@dataclass(frozen=True)
class Source:
    """File that a clip's features were computed from; of a caption, its text.

    Attributes
    ----------
    path : str
        Relative to the videos' root; of a caption ``captions.parquet``.
    size : int
        Bytes; of the text in UTF-8.
    mtime_ns : int or None
        Time of the last change, nanoseconds; None for a text.
    hash : str or None
        Of the content, None where it was not computed.
    """

    path: str
    size: int
    mtime_ns: int | None
    hash: str | None = None


class PendingShard:
    """Clips in memory until their shard is sealed.

    Parameters
    ----------
    dim : int
        D, numbers a step.
    dtype : numpy.dtype
        Of the values as they are stored.
    """

    def __init__(self, dim: int, dtype: np.dtype[Any]) -> None:
        self._values = np.empty((FIRST_ROWS, dim), dtype.newbyteorder("<"))
        self._timestamps = np.empty((FIRST_ROWS, 2), "<f8")
        self.clear()

    def clear(self) -> None:
        """Remove all clips; their memory is reused."""
        self._rows: list[tuple[Any, ...]] = []  # as SCHEMA has the columns
        self._offsets = [0]

    def __len__(self) -> int:
        """Number of rows, failures included."""
        return len(self._rows)

    @property
    def clips(self) -> int:
        """Number of rows that have features."""
        return len(self._offsets) - 1

    @property
    def steps(self) -> int:
        """ΣT of all clips."""
        return self._offsets[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.steps * self._values.strides[0]

    def place(self, clip_id: str, values: Any, timestamps: Any) -> tuple[Array, Array]:
        """Check a clip's features and copy them behind the last clip's, for :meth:`add_row`.

        Raises
        ------
        ValueOverflow
            A value is not finite, before or after the cast to the stored dtype, or a step loses all its values to zero.
        InvalidFeatures
            Wrong shape, no steps, or impossible timestamps.
        """
        steps = np.asarray(values)
        times = np.asarray(timestamps, dtype="<f8")
        dim = self._values.shape[1]
        kind = self._values.dtype.kind
        if steps.ndim != 2 or steps.shape[1] != dim or steps.dtype.kind != kind or (kind == "u" and steps.itemsize > 1):
            wanted = "floats" if kind == "f" else "uint8"
            raise InvalidFeatures(f"clip {clip_id!r}: values are {steps.dtype} {steps.shape}, not {wanted} (T, {dim})")
        if not len(steps):
            raise InvalidFeatures(f"clip {clip_id!r}: no steps at all: record it with fail()")
        if times.shape != (len(steps), 2):
            raise InvalidFeatures(f"clip {clip_id!r}: timestamps are {times.shape}, not ({len(steps)}, 2)")
        if not np.isfinite(times).all() or (times[:, 0] > times[:, 1]).any():
            raise InvalidFeatures(f"clip {clip_id!r}: timestamps are not finite, or a step ends before it starts")
        stored, stored_times = self._room(len(steps))
        if steps.dtype == stored.dtype:
            stored[...] = steps
        else:
            with np.errstate(over="ignore"):
                stored[...] = steps
        if not _all_finite(stored):
            worst = steps[~np.isfinite(stored)][0]
            raise ValueOverflow(f"clip {clip_id!r}: the value {worst} does not fit {stored.dtype.name}")
        if steps.dtype.itemsize > stored.dtype.itemsize:
            _refuse_underflow(clip_id, steps, stored)
        stored_times[...] = times
        return stored, stored_times

    def add_row(
        self,
        clip_id: str,
        status: str,
        message: str,
        source: Source | None,
        seconds: float,
        generation: int,
        features: tuple[Array, Array] | None,
    ) -> None:
        """Add a row, with the features that :meth:`place` just returned; None for a failure."""
        offset = checksum = timestamps_checksum = None
        length = 0
        if features is not None:
            values, timestamps = features
            offset, length = self.steps, len(values)
            # Now, while they are in the processor's cache.
            checksum = xxhash.xxh3_64_intdigest(values.data)
            timestamps_checksum = xxhash.xxh3_64_intdigest(timestamps.data)
            self._offsets.append(offset + length)
        about = (source.path, source.size, source.mtime_ns, source.hash) if source else (None, None, None, None)
        row = (clip_id, status, message, offset, length, checksum, timestamps_checksum, *about, seconds, generation)
        self._rows.append(row)

    def table(self) -> pa.Table:
        """Return the rows in the order of their addition."""
        columns = zip(*self._rows, strict=True)
        return pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )

    def arrays(self) -> ShardArrays | None:
        """Return views of all features, valid until :meth:`clear`; None if no clip has features."""
        if not self.clips:
            return None
        offsets = np.array(self._offsets, np.int64)
        return ShardArrays(self._values[: self.steps], self._timestamps[: self.steps], offsets)

    def _room(self, steps: int) -> tuple[Array, Array]:
        if (needed := self.steps + steps) > len(self._values):
            self._values, self._timestamps = (
                _grown(array, self.steps, max(needed, 2 * len(array))) for array in (self._values, self._timestamps)
            )
        return self._values[self.steps : needed], self._timestamps[self.steps : needed]


def _refuse_underflow(clip_id: str, steps: Array, stored: Array) -> None:
    """Raise ValueOverflow if a step has values, and none in the stored dtype."""
    filled = stored.any(axis=1)
    if filled.all() or not (gone := ~filled & steps.any(axis=1)).any():
        return
    row = int(np.flatnonzero(gone)[0])
    raise ValueOverflow(
        f"clip {clip_id!r}: all values of step {row}, at most {np.abs(steps[row]).max():.3g}, are zero in "
        f"{stored.dtype.name}: store float32"
    )


def _grown(array: Array, used: int, rows: int) -> Array:
    larger = np.empty((rows, array.shape[1]), array.dtype)
    larger[:used] = array[:used]
    return larger


def _all_finite(values: Array) -> bool:
    """Whether all values are finite; for float16 by their bits, as NumPy has no fast path."""
    if values.dtype.kind == "u":
        return True
    if values.dtype.itemsize == 2:
        return bool(np.left_shift(values.view("<u2"), 1).max() < 0xF800)  # above: all bits of the exponent are set
    return bool(np.isfinite(values).all())
