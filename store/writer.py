"""Writing features: clips are gathered, and committed a shard at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import xxhash

from store import shard as shards
from store.card import FeatureCard
from store.errors import InvalidFeatures, SupportsetError, ValueOverflow
from store.files import as_part, open_folder
from store.index import OK, SCHEMA, ShardIndex, StoredFile, describe, index_name, new_shard_id, read_all, write_index
from store.shard import Array, Location, ShardArrays

BYTES_PER_SHARD = 512 * 2**20  # of values: a shard is sealed before it outgrows the memory of a small machine


@dataclass(frozen=True)
class Source:
    """The file that a clip's features were computed from.

    Attributes
    ----------
    path : relative to the videos' root
    size : bytes
    mtime_ns : time of the last change, nanoseconds
    hash : of the content, None where it was not computed
    """

    path: str
    size: int
    mtime_ns: int
    hash: str | None = None


class FeatureWriter:
    """One process's way to add to a feature set. Several may write the same set at once, on any machines.

    Clips are visible to readers once the shard that holds them is sealed: by :meth:`seal`, by leaving the ``with``
    block (also on an error or an interrupt), or when the shard is full.

    Parameters
    ----------
    path : folder of the feature set; it and its card are made where absent
    card : the recipe must be that of the card that is there
    shard_format : ``zarr`` or ``hdf5``
    clips_per_shard, seconds_per_shard, bytes_per_shard : a shard is sealed when one of them is reached

    Raises
    ------
    SupportsetError
        The folder holds another recipe's features, or cannot be written to.

    Examples
    --------
    >>> with FeatureWriter(path, card) as writer:                    # doctest: +SKIP
    ...     writer.add("video0", values, timestamps)
    ...     writer.fail("video1", "unreadable", "no such codec")
    """

    def __init__(
        self,
        path: str | Path,
        card: FeatureCard,
        *,
        shard_format: str = "zarr",
        clips_per_shard: int = 500,
        seconds_per_shard: float = 300.0,
        bytes_per_shard: int = BYTES_PER_SHARD,
    ) -> None:
        self.path = Path(path)
        self.card = card
        self._format = shards.shard_format(shard_format)
        self._limits = clips_per_shard, seconds_per_shard, bytes_per_shard
        self._dtype = np.dtype(card.recipe.dtype)
        folder = open_folder(path)
        card.claim(folder)
        self._shards = folder.child("shards")
        self._generations: dict[str, int] | None = None
        self._seen: set[str] = set()
        self._broken = False
        self._start_shard()

    def add(
        self,
        clip_id: str,
        values: Any,
        timestamps: Any,
        *,
        source: Source | None = None,
        seconds: float = 0.0,
        status: str = OK,
        message: str = "",
    ) -> None:
        """Add a clip's features.

        Parameters
        ----------
        clip_id : not added before by this writer
        values : (T, D) floats, T at least 1; cast to the stored dtype
        timestamps : (T, 2) seconds: start and end of each step
        source : the file they were computed from
        seconds : time spent
        status : ``ok``; a clip with features has no other
        message : remarks, such as the number of damaged frames

        Raises
        ------
        ValueOverflow
            A value is not finite, or is not once cast to the stored dtype. The clip is not added:
            the caller records it with :meth:`fail`.
        InvalidFeatures
            Wrong shape, no steps, or times that are not finite or end before they start.
        SupportsetError
            The clip was added before, or the full shard could not be written.
        """
        if status != OK:
            raise ValueError(f"clip {clip_id!r}: features come with the status ok, not {status!r}; use fail()")
        steps, times = self._checked(clip_id, values, timestamps)
        checksums = (xxhash.xxh3_64_intdigest(as_part(steps)), xxhash.xxh3_64_intdigest(as_part(times)))
        self._row(clip_id, OK, message, source, seconds, self._steps, len(steps), checksums)
        self._values.append(steps)
        self._timestamps.append(times)
        self._steps += len(steps)
        self._bytes += steps.nbytes
        self._seal_when_full()

    def fail(
        self, clip_id: str, status: str, message: str, *, source: Source | None = None, seconds: float = 0.0
    ) -> None:
        """Record that a clip has no features, and why.

        Parameters
        ----------
        clip_id : not added before by this writer
        status : e.g. ``missing``, ``unreadable``, ``too_short``; not ``ok``
        message : one line that says more
        source, seconds : as for :meth:`add`
        """
        if status == OK or not status:
            raise ValueError(f"clip {clip_id!r}: a failure has a status of its own, not {status!r}")
        self._row(clip_id, status, message, source, seconds, None, 0, (None, None))
        self._seal_when_full()

    def seal(self) -> None:
        """Commit what was added so far: shard files first, the index last. Nothing added: nothing written.

        Raises
        ------
        SupportsetError
            The file system refused; readers see nothing of this shard, and what was committed before stays.
        """
        if not self._rows:
            return
        try:
            self._commit()
        except SupportsetError:
            self._broken = True
            raise
        self._broken = False
        self._start_shard()

    def _commit(self) -> None:
        shard = new_shard_id()
        files: tuple[StoredFile, ...] = ()
        arrays: dict[str, Location] = {}
        if self._values:
            encoded = self._format.encode(shard, ShardArrays.pack(self._values, self._timestamps))
            self._shards.put(encoded.files)
            files, arrays = describe(encoded), encoded.arrays
        recipe = self.card.recipe.hash
        index = ShardIndex(shard, self._format.name, recipe, files, arrays, provenance=self.card.provenance)
        try:
            write_index(self._shards, index, pa.Table.from_pylist(self._rows, SCHEMA))
        except SupportsetError:
            # Without an index nobody will ever look at the shard. But the index may be there although the
            # folder could not be flushed after it: then its shard must stay.
            with suppress(SupportsetError):
                if files and self._shards.size(index_name(shard)) is None:
                    self._shards.remove(self._format.root(shard))
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On the way out from a seal that failed, a second try would most likely fail as well, and hide the first error.
        if error is None or not self._broken:
            self.seal()

    def _start_shard(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._values: list[Array] = []
        self._timestamps: list[Array] = []
        self._steps = 0
        self._bytes = 0
        self._since = time.monotonic()

    def _seal_when_full(self) -> None:
        clips, seconds, size = self._limits
        if len(self._rows) == 1:
            self._since = time.monotonic()
        if len(self._rows) >= clips or self._bytes >= size or time.monotonic() - self._since >= seconds:
            self.seal()

    def _checked(self, clip_id: str, values: Any, timestamps: Any) -> tuple[Array, Array]:
        steps = np.asarray(values)
        times = np.array(timestamps, dtype="<f8", order="C")
        dim = self.card.recipe.dim
        if steps.ndim != 2 or steps.shape[1] != dim or steps.dtype.kind != "f":
            raise InvalidFeatures(f"clip {clip_id!r}: values are {steps.dtype} {steps.shape}, not floats (T, {dim})")
        if not len(steps):
            raise InvalidFeatures(f"clip {clip_id!r}: no steps at all: record it with fail()")
        if times.shape != (len(steps), 2):
            raise InvalidFeatures(f"clip {clip_id!r}: timestamps are {times.shape}, not ({len(steps)}, 2)")
        if not np.isfinite(times).all() or (times[:, 0] > times[:, 1]).any():
            raise InvalidFeatures(f"clip {clip_id!r}: timestamps are not finite, or a step ends before it starts")
        with np.errstate(over="ignore"):
            cast = np.array(steps, dtype=self._dtype.newbyteorder("<"), order="C")
        if not np.isfinite(cast).all():
            worst = steps[~np.isfinite(cast)][0]
            raise ValueOverflow(f"clip {clip_id!r}: the value {worst} does not fit {self._dtype}")
        return cast, times

    def _row(
        self,
        clip_id: str,
        status: str,
        message: str,
        source: Source | None,
        seconds: float,
        offset: int | None,
        length: int,
        checksums: Sequence[int | None],
    ) -> None:
        if not isinstance(clip_id, str) or not clip_id:
            raise InvalidFeatures(f"clip id {clip_id!r} is not a string with something in it")
        if clip_id in self._seen:
            raise InvalidFeatures(f"clip {clip_id!r} was added before by this writer: each clip once")
        if _printable(clip_id) != clip_id:
            raise InvalidFeatures(f"clip id {_printable(clip_id)!r} is not valid Unicode: rename the clip")
        self._seen.add(clip_id)
        self._rows.append(
            {
                "clip_id": clip_id,
                "status": status,
                "message": _printable(" ".join(message.split())),
                "offset": offset,
                "length": length,
                "checksum": checksums[0],
                "timestamps_checksum": checksums[1],
                "source_path": _printable(source.path) if source else None,
                "source_size": source.size if source else None,
                "source_mtime_ns": source.mtime_ns if source else None,
                "source_hash": source.hash if source else None,
                "seconds": float(seconds),
                "generation": self._next_generation(clip_id),
            }
        )

    def _next_generation(self, clip_id: str) -> int:
        if self._generations is None:
            self._generations = {}
            _, tables = read_all(self._shards, ["clip_id", "generation"])
            for table in tables:
                for clip, generation in zip(table["clip_id"].to_pylist(), table["generation"].to_pylist(), strict=True):
                    self._generations[clip] = max(generation, self._generations.get(clip, 0))
        return self._generations.get(clip_id, -1) + 1


def _printable(text: str) -> str:
    """The text as Parquet can hold it: file names need not be valid Unicode, and a shard must not fail for one."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
