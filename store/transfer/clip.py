"""Conversion of an imported array to a clip's features: shape, dtype, finite values, padding, timestamps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import xxhash

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import as_part
from supportset.store.format.shard import Array
from supportset.store.transfer.arrays import Fault
from supportset.store.transfer.sources import ClipArrays

SURVEYED = 64  # readable clips that determine the shape and dtype of a source


@dataclass(frozen=True)
class Form:
    """Required form of every clip of an import.

    Attributes
    ----------
    dim : int
        D.
    dtype : str
        Stored dtype.
    rounding : bool
        Whether values may be rounded to it: the user requested the dtype.
    trim_zeros : bool
        Whether rows of zeros at the end are removed.
    fps : float or None
        Step ``i`` spans ``i / fps`` to ``(i + 1) / fps`` seconds; None: ``i`` to ``i + 1``, unless times are
        given.
    """

    dim: int
    dtype: str
    rounding: bool = False
    trim_zeros: bool = False
    fps: float | None = None


@dataclass(frozen=True)
class Features:
    """A clip ready to be written.

    Attributes
    ----------
    values : (T, D) array
        In the stored dtype, C order.
    timestamps : (T, 2) float64 seconds
    zero_rows : int
        Rows of zeros at the end of the imported array.
    lost : int
        Values that are zero only in the stored dtype.
    """

    values: Array
    timestamps: Array
    zero_rows: int
    lost: int = 0

    @property
    def checksums(self) -> tuple[int, int]:
        """Checksums as in the index: xxh3-64 of values and of timestamps."""
        return xxhash.xxh3_64_intdigest(as_part(self.values)), xxhash.xxh3_64_intdigest(as_part(self.timestamps))


def prepare(array: Array, form: Form, times: Array | None = None) -> Features:
    """Check the array of one clip, and convert it to the stored form.

    Parameters
    ----------
    array : (T, D) array
        Or (D,) for one step.
    form : Form
        Required form.
    times : (T, 2) array, optional
        Start and end of each step in seconds, or (T,) moments.

    Raises
    ------
    Fault
        With status ``wrong_shape``, ``wrong_dtype``, ``empty``, ``not_finite``, ``overflow``, ``underflow`` or
        ``wrong_times``.
    """
    steps = as_steps(array)
    if steps.shape[1] != form.dim:
        raise Fault("wrong_shape", f"has {steps.shape[1]} numbers a step, the others have {form.dim}")
    stored = np.dtype(form.dtype).newbyteorder("<")
    if not form.rounding and not np.can_cast(steps.dtype, stored, "safe"):
        raise Fault("wrong_dtype", f"{steps.dtype}, the others are {form.dtype}: --dtype {form.dtype} would round it")
    if not np.isfinite(steps).all():
        row, column = np.argwhere(~np.isfinite(steps))[0]
        raise Fault("not_finite", f"{steps[row, column]} at step {row}, feature {column}")
    zero_rows = trailing_zero_rows(steps)
    kept = len(steps) - zero_rows if form.trim_zeros else len(steps)
    if not kept:
        raise Fault("empty", f"all of its {len(steps)} steps are zero")
    with np.errstate(over="ignore"):
        values = np.array(steps[:kept], dtype=stored, order="C")
    if values.dtype != steps.dtype and not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise Fault("overflow", f"{steps[row, column]} at step {row}, feature {column} does not fit {form.dtype}")
    lost = int(np.count_nonzero(steps[:kept]) - np.count_nonzero(values)) if values.dtype != steps.dtype else 0
    if lost and (gone := ~values.any(axis=1) & steps[:kept].any(axis=1)).any():
        row = int(np.flatnonzero(gone)[0])
        largest = np.abs(steps[row]).max()
        raise Fault(
            "underflow",
            f"all values of step {row}, at most {largest:.3g}, are zero in {form.dtype}: use --dtype float32",
        )
    return Features(values, _spans(times, len(steps), kept, form.fps), zero_rows, lost)


def as_steps(array: Array) -> Array:
    """Return (T, D) from (T, D) or (D,); Fault if it is neither, or not floating-point."""
    if array.dtype.kind != "f":
        raise Fault("wrong_dtype", f"{array.dtype} is not a floating-point type")
    steps = array[None] if array.ndim == 1 else array
    if steps.ndim != 2:
        raise Fault("wrong_shape", f"has the shape {array.shape}; features are (T, D), or (D,) for one step: pool them")
    if not steps.size:
        raise Fault("empty", f"has the shape {array.shape}: no steps, or no features")
    return steps


def trailing_zero_rows(steps: Array) -> int:
    """Count the rows of zeros at the end, as padding to a fixed length leaves them."""
    if steps[-1].any():
        return 0
    filled = np.flatnonzero(steps.any(axis=1))
    return len(steps) - (int(filled[-1]) + 1 if len(filled) else 0)


def survey(source: ClipArrays, dim: int | None, dtype: str | None) -> tuple[int, str]:
    """Find the number of features and the dtype that most of a source's first readable clips have.

    Parameters
    ----------
    source : ClipArrays
        Features to import.
    dim : int or None
    dtype : str or None
        As requested by the user, or None.

    Raises
    ------
    UsageError
        Most clips are float64, and no dtype was requested.
    SupportsetError
        No clip is readable.
    """
    if dim is not None and dtype is not None:
        return dim, dtype
    forms: Counter[tuple[int, str]] = Counter()
    first = ""
    for clip_id in source.ids:
        try:
            steps = as_steps(source.read(clip_id)[0])
        except Fault as fault:
            first = first or f"{clip_id}: {fault.message}"
            continue
        forms[steps.shape[1], steps.dtype.newbyteorder("=").name] += 1
        if forms.total() == SURVEYED:
            break
    if not forms:
        raise SupportsetError(
            f"{source.path}: none of its {len(source.ids):,} clips can be imported; the first: {first}"
        )
    (found_dim, found_dtype), _ = forms.most_common(1)[0]
    if dtype is None and found_dtype not in ("float16", "float32"):
        raise UsageError(
            f"{source.path}: holds {found_dtype}: choose --dtype float32 or --dtype float16, both round it"
        )
    return dim or found_dim, dtype or found_dtype


def _spans(times: Array | None, steps: int, kept: int, fps: float | None) -> Array:
    if times is None:
        edges = np.arange(kept + 1, dtype="<f8") / (fps or 1.0)
        return np.stack([edges[:-1], edges[1:]], axis=1)
    if times.dtype.kind not in "fiu" or times.ndim not in (1, 2) or (times.ndim == 2 and times.shape[1] != 2):
        raise Fault(
            "wrong_times", f"times are {times.dtype} {times.shape}; they must be (T, 2) seconds, or (T,) moments"
        )
    if len(times) not in (steps, kept):
        raise Fault("wrong_times", f"has {steps} steps and {len(times)} times")
    spans = times[:kept].astype("<f8")
    spans = np.stack([spans, spans], axis=1) if spans.ndim == 1 else np.ascontiguousarray(spans)
    if not np.isfinite(spans).all() or (spans[:, 0] > spans[:, 1]).any():
        raise Fault("wrong_times", "its times are not finite, or a step ends before it starts")
    return spans
