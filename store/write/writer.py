"""Writing of features: clips are collected, and committed a shard at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from supportset.store.errors import InvalidFeatures, SupportsetError
from supportset.store.files import StorePath, open_folder, store_path
from supportset.store.format.card import CARD, FeatureCard
from supportset.store.format.index import (
    ShardIndex,
    StoredFile,
    describe,
    index_name,
    new_shard_id,
    read_all,
    write_index,
)
from supportset.store.format.manifest import Entry, entry_name, put_entry
from supportset.store.format.registry import DEFAULT_FORMAT
from supportset.store.format.registry import shard_format as find_format
from supportset.store.format.shard import Array, Location, ShardArrays
from supportset.store.format.status import OK, WITH_FEATURES
from supportset.store.write.pending import PendingShard, Source
from supportset.store.write.replacement import are_complete, remove_shard

__all__ = ["FeatureWriter", "Source"]

BYTES_PER_SHARD = 512 * 2**20  # of values: bounds the memory of a writer
ROWS_PER_CLIP = 20  # at most so many rows, failures included, for each clip that a shard may have
ATTEMPTS = 3  # to write a shard whose files another process removes: see FeatureWriter._write


class FeatureWriter:
    """Writer of one process to a feature set. Several, on any machines, may write to the same set at once.

    Readers see a clip when its shard is sealed: by :meth:`seal`, at the end of the ``with`` block (also after an error
    or an interrupt), or when the shard is full.

    Parameters
    ----------
    path : str or StorePath
        Folder of the feature set; made if missing, with the card.
    card : FeatureCard
        Its recipe must be that of the existing card.
    shard_format : str, default DEFAULT_FORMAT
        Name of a format in :mod:`supportset.store.format.registry`.
    clips_per_shard : int, default 500
        Clips with features after which a shard is sealed. With failures, a shard has at most 20 times as many rows.
    seconds_per_shard : float, default 300.0
        Age at which a shard is sealed.
    bytes_per_shard : int, default BYTES_PER_SHARD
        Bytes of values at which a shard is sealed.
    before : callable, optional
        Called before each commit, to commit first what the features shall never be without.

    Raises
    ------
    SupportsetError
        The folder holds features of another recipe, or cannot be written.

    Examples
    --------
    >>> with FeatureWriter(path, card) as writer:                    # doctest: +SKIP
    ...     writer.add("video0", values, timestamps)
    ...     writer.fail("video1", "unreadable", "no such codec")
    """

    def __init__(
        self,
        path: str | StorePath,
        card: FeatureCard,
        *,
        shard_format: str = DEFAULT_FORMAT,
        clips_per_shard: int = 500,
        seconds_per_shard: float = 300.0,
        bytes_per_shard: int = BYTES_PER_SHARD,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.path = store_path(path)
        self.card = card
        self._format = find_format(shard_format)
        self._limits = clips_per_shard, seconds_per_shard, bytes_per_shard
        self._before = before
        self._root = open_folder(path)
        card.claim(self._root)
        self._shards = self._root.child("shards")
        self._generations: dict[str, int] | None = None
        self._seen: set[str] = set()
        self._broken = False
        self._robbed: list[str] = []  # shards of ours whose index is there, and whose files were taken away
        self._pending = PendingShard(card.recipe.dim, np.dtype(card.recipe.dtype))
        self._since = time.monotonic()

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
        clip_id : str
            Not added before by this writer; in a set of kind ``text`` a caption's id.
        values : (T, D) floats
            T at least 1; cast to the stored dtype. In a set of thumbnails uint8.
        timestamps : (T, 2) seconds
            Start and end of each step; in a set of kind ``text`` its position in tokens.
        source : Source, optional
            The file they were computed from.
        seconds : float, default 0.0
            Time spent.
        status : str, default OK
            ``ok``, or ``damaged`` for features of the intact part of a damaged file.
        message : str, default ''
            Remarks, such as the number of lost frames.

        Raises
        ------
        ValueOverflow
            A value is not finite, before or after the cast to the stored dtype. The clip is not added:
            the caller records it with :meth:`fail`.
        InvalidFeatures
            Wrong shape, no steps, or impossible timestamps.
        SupportsetError
            The clip was added before, or the full shard could not be written.
        """
        if status not in WITH_FEATURES:
            raise ValueError(f"clip {clip_id!r}: features have the status ok or damaged, not {status!r}; use fail()")
        self._add_row(clip_id, status, message, source, seconds, self._pending.place(clip_id, values, timestamps))

    def fail(
        self, clip_id: str, status: str, message: str, *, source: Source | None = None, seconds: float = 0.0
    ) -> None:
        """Record that a clip has no features, with the reason.

        Parameters
        ----------
        clip_id : str
            Not added before by this writer.
        status : str
            E.g. ``missing``, ``unreadable``, ``too_short``; not ``ok``.
        message : str
            One line that says more.
        source : Source, optional
            As for :meth:`add`.
        seconds : float, default 0.0
            As for :meth:`add`.
        """
        if status == OK or not status:
            raise ValueError(f"clip {clip_id!r}: a failure needs another status than {status!r}")
        self._add_row(clip_id, status, message, source, seconds, None)

    def seal(self) -> None:
        """Commit what was added: first the shard's files, then the index. Does nothing if nothing was added.

        Raises
        ------
        SupportsetError
            A file cannot be written. Readers see nothing of this shard; earlier ones stay.
        """
        if not len(self._pending):
            return
        try:
            if self._before is not None:
                self._before()
            self._commit()
        except SupportsetError:
            self._broken = True
            raise
        self._broken = False
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a failed seal, a second try would fail too, and hide the first error.
        if error is None or not self._broken:
            self.seal()

    def _commit(self) -> None:
        rows, arrays = self._pending.table(), self._pending.arrays()
        try:
            for left in reversed(range(ATTEMPTS)):
                try:
                    if self._write(rows, arrays):
                        return
                except SupportsetError as error:
                    # A file was removed while it was being written: see _write.
                    if not isinstance(error.__cause__, FileNotFoundError) or not left:
                        raise
            raise SupportsetError(
                f"{self._shards}: the files of a shard are removed as soon as they are written: stop what removes them"
            )
        finally:
            with suppress(SupportsetError):
                while self._robbed:
                    remove_shard(self._shards, self._robbed[-1])
                    self._robbed.pop()

    def _write(self, rows: pa.Table, arrays: ShardArrays | None) -> bool:
        """Write and commit the shard; return False if its files are missing afterwards.

        `store compact` removes files without an index that have not changed for an hour. If this process is suspended
        that long before it writes the index, these are its files. So it looks for them before and after it writes the
        index; from then on `store compact` leaves them.
        """
        self._check_not_deleted()
        shard = new_shard_id()
        files: tuple[StoredFile, ...] = ()
        places: dict[str, Location] = {}
        try:
            put_entry(self._shards, shard, Entry())
            if arrays is not None:
                encoded = self._format.encode(shard, arrays)
                self._shards.put(encoded.files)
                files, places = describe(encoded), encoded.arrays
                if not self._whole(files):
                    self._withdraw(shard)
                    return False
            recipe, replaced = self.card.recipe.hash, tuple(self._robbed)
            index = ShardIndex(shard, self._format.name, recipe, files, places, replaced, self.card.provenance)
            write_index(self._shards, index, rows)
        except SupportsetError:
            # No reader sees a shard without an index. But the index may exist although flushing the folder failed:
            # then the shard must stay.
            with suppress(SupportsetError):
                if self._shards.size(index_name(shard)) is None:
                    self._withdraw(shard)
            self._check_not_deleted()
            raise
        # If the index is missing, a compaction has merged the shard already.
        if not self._whole(files) and self._shards.size(index_name(shard)) is not None:
            self._robbed.append(shard)
            return False
        try:
            self._check_not_deleted()
        except SupportsetError:
            remove_shard(self._shards, shard)
            raise
        return True

    def _whole(self, files: Sequence[StoredFile]) -> bool:
        return are_complete(self._shards, files)

    def _withdraw(self, shard: str) -> None:
        self._shards.remove(self._format.root(shard))
        self._shards.remove(entry_name(shard))

    def _check_not_deleted(self) -> None:
        """Stop if `store rm` deleted the set: what is written now would bring back a part of it."""
        if self._root.size(CARD) is None:
            raise SupportsetError(f"{self._root}: was deleted while it was being written: run again to begin it anew")

    def _seal_when_full(self) -> None:
        clips, seconds, size = self._limits
        pending = self._pending
        if len(pending) == 1:
            self._since = time.monotonic()
        full = pending.clips >= clips or len(pending) >= ROWS_PER_CLIP * clips or pending.nbytes >= size
        if full or time.monotonic() - self._since >= seconds:
            self.seal()

    def _add_row(
        self,
        clip_id: str,
        status: str,
        message: str,
        source: Source | None,
        seconds: float,
        features: tuple[Array, Array] | None,
    ) -> None:
        if not isinstance(clip_id, str) or not clip_id:
            raise InvalidFeatures(f"clip id {clip_id!r} is empty or not a string")
        if clip_id in self._seen:
            raise InvalidFeatures(f"clip {clip_id!r} was added before: a writer takes each clip once")
        if _printable(clip_id) != clip_id:
            raise InvalidFeatures(f"clip id {_printable(clip_id)!r} is not valid Unicode: rename the clip")
        if source is not None and not source.path.isascii():
            source = replace(source, path=_printable(source.path))
        said = _printable(" ".join(message.split()))
        self._pending.add_row(clip_id, status, said, source, float(seconds), self._next_generation(clip_id), features)
        self._seen.add(clip_id)
        self._seal_when_full()

    def _next_generation(self, clip_id: str) -> int:
        if self._generations is None:
            found: dict[str, int] = {}
            _, tables = read_all(self._shards, ["clip_id", "generation"])
            for table in tables:
                for clip, generation in zip(table["clip_id"].to_pylist(), table["generation"].to_pylist(), strict=True):
                    found[clip] = max(generation, found.get(clip, 0))
            self._generations = found
        return self._generations.get(clip_id, -1) + 1


def _printable(text: str) -> str:
    """The text as valid Unicode, for Parquet: file names may be anything."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
