"""The arrays of a set's shards as views of mapped files, mapped on first use."""

from __future__ import annotations

from typing import Any

import numpy as np

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, MappedFile, disk_reads
from supportset.store.files.mapping import LocalMapping
from supportset.store.files.memory import copy_rows
from supportset.store.format.index import FIX, ShardIndex, StoredFile, index_name
from supportset.store.format.registry import shard_format
from supportset.store.format.shard import Array
from supportset.store.read.joined_shards import JoinedShards
from supportset.store.read.padding import packed_rows

PATIENCE = 3  # successive batches from memory after which no read-ahead is requested
_CLIP_SECONDS = 1e-5  # copying from memory takes at most so long a clip, even on a busy machine ...
_BYTE_SECONDS = 1 / 1e9  # ... and so long a byte; one page from a disk takes 50 us
# A page that is read when it is touched takes some 100 us; a read-ahead request takes some 4 us a clip, cold or not. So
# a batch with one cold page in 16 clips, as when the kernel reclaims memory slowly, is read without requests.
_BLOCKS = 0.5  # of 512 bytes a clip, on average, that may be read from disk in a batch that counts as from memory
_AHEAD = 4  # batches whose read-ahead is remembered
_NEAR = 64 * 1024  # bytes: ranges this near are requested as one
# Rows a clip, on average, up to which one indexed copy is faster than slices: 5 times for single rows of 1 KB, 1.2 for
# 64 of them. With more it is slower where rows are short (0.9 at 512 rows of 128 bytes), and else as fast.
_MANY = 256


class MappedShards:
    """One array, ``values`` or ``timestamps``, of each shard.

    Parameters
    ----------
    folder : Folder
        Folder of the shards.
    indexes : list of ShardIndex
        Their indexes.
    name : str
        Name of the array.
    dtype : numpy.dtype
        Required dtype.
    columns : int
        Required length of a row.
    separate : bool, default False
        Map each file separately, so that its memory is freed with the last view of it. Otherwise local files
        are joined to one array.

    Attributes
    ----------
    views : (steps, columns) array
        View of each shard, None until it is needed.
    """

    def __init__(
        self,
        folder: Folder,
        indexes: list[ShardIndex],
        name: str,
        dtype: np.dtype[Any],
        columns: int,
        *,
        separate: bool = False,
    ) -> None:
        self.name, self.dtype, self.columns, self.separate = name, dtype, columns, separate
        self._folder, self._indexes = folder, list(indexes)
        self.views: list[Array | None] = [None] * len(indexes)
        self._files: list[tuple[MappedFile, int] | None] = [None] * len(indexes)
        self._joined: dict[str, JoinedShards] = {}  # one, made with the first map
        self._first = np.full(len(indexes), -1)  # of each shard, its first row in the joined array; -1 if separate
        self._is_mapped = np.zeros(len(indexes), bool)
        self._all_mapped = False
        self._is_distant = np.zeros(len(indexes), bool)  # bytes of these must be fetched before they are touched
        self._asked: tuple[tuple[Array, bool], ...] = ()  # requested batches, and whether the request read from a disk
        self._was_cold = False  # whether the request of the current batch read from a disk
        self._fast = 0  # latest batches in a row that seem to have come from memory

    def extend(self, indexes: list[ShardIndex]) -> MappedShards:
        """Append shards; what is mapped stays mapped.

        Joined shards are joined anew on their next use. Those whose files are missing by then keep their views.
        """
        longer = MappedShards(
            self._folder, [*self._indexes, *indexes], self.name, self.dtype, self.columns, separate=self.separate
        )
        count = len(self.views)
        longer.views[:count] = self.views
        longer._files[:count] = self._files
        longer._is_distant[:count] = self._is_distant
        longer._is_mapped[:count] = [view is not None for view in longer.views[:count]]
        longer._is_mapped[:count] &= self._first < 0
        return longer

    def map(self, shards: Array, steps: Array) -> None:
        """Map some shards.

        Parameters
        ----------
        shards : (N,) array
            Their numbers, in any order, repeats allowed.
        steps : (all shards,) array
            Rows that each must have at least.

        Raises
        ------
        SupportsetError
            A file is missing, has another size than its index says, or other content.
        """
        if self._all_mapped:
            return
        for shard in np.unique(shards[~self._is_mapped[shards]]).tolist():
            try:
                self.views[shard] = self._map(shard, int(steps[shard]))
            except SupportsetError:
                if self.views[shard] is None:  # it was mapped before, see extend
                    raise
            self._is_mapped[shard] = True
        self._all_mapped = bool(self._is_mapped.all())

    def await_bytes(self, places: Array) -> None:
        """Fetch the rows of some clips if they are remote, or request read-ahead if they may be on a disk.

        Pages that are read from a disk when they are touched are some 25 times slower than with read-ahead; requests
        for pages in memory cost a third of the speed. The previous batches decide: how much this thread read from
        disks for them, or their time where the system does not count that.

        Parameters
        ----------
        places : (N, 3) int64
            Of each clip its shard, which is mapped, its first row and the row after its last.
        """
        if self._any_distant():
            wanted = self._ranges(places[self._is_distant[places[:, 0]]])
            for shard, ranges in wanted.items():  # all first, so that they come side by side
                self._file(shard)[0].ask(ranges)
            for shard, ranges in wanted.items():
                self._file(shard)[0].fetch(ranges)
                self._is_distant[shard] = not self._file(shard)[0].complete
            return
        was_cold = self._take_asked(places)
        self._was_cold = bool(was_cold)
        if was_cold is None and self._fast < PATIENCE:
            self.ask(places)

    def slices(self, places: Array) -> list[Array]:
        """Return views of the rows of some clips, (T, columns) each. Parameters as in :meth:`await_bytes`."""
        views: Any = self.views  # all of them mapped
        return [views[shard][start:stop] for shard, start, stop in places.tolist()]

    def copy(self, places: Array, offsets: Array, out: Array) -> None:
        """Copy and concatenate the rows of some clips.

        Parameters
        ----------
        places : ndarray
            As :meth:`await_bytes`.
        offsets : (N + 1,) int64
            Where the rows of each go.
        out : (ΣT, columns) array
            Of any dtype that holds ours.
        """
        shards, starts, stops = places.T
        firsts = self._first[shards]
        few = 0 < offsets[-1] <= _MANY * len(places)
        if few and out.dtype == self.dtype and (firsts >= 0).all():
            whole = self._joined["one"].array
            assert whole is not None  # a shard was joined
            copy_rows(whole, packed_rows(firsts + starts, stops - starts, offsets), out)
        elif len(places):
            np.concatenate(self.slices(places), out=out)

    def copied(self, clips: int, rows: int, seconds: float, reads: int) -> None:
        """Record time and disk reads of a batch."""
        row_bytes = self.columns * self.dtype.itemsize
        fast = (
            not self._was_cold
            and reads <= clips * _BLOCKS
            and seconds < clips * _CLIP_SECONDS + rows * row_bytes * _BYTE_SECONDS
        )
        self._fast = self._fast + 1 if fast else 0

    def ask_ahead(self, places: Array) -> None:
        """Like :meth:`ask`, for a later batch: it is not requested again when it is read."""
        self._asked = (*self._asked, (places, self.ask(places)))[-_AHEAD:]

    def _take_asked(self, places: Array) -> bool | None:
        """Whether the request of a batch read from a disk; None if it was not requested."""
        asked = self._asked  # never changed in place: another thread may be reading
        for number, (each, was_cold) in enumerate(asked):
            if np.array_equal(each, places):
                self._asked = asked[:number] + asked[number + 1 :]  # a later read of it may be cold
                return was_cold
        return None

    @property
    def cold(self) -> bool:
        """Whether bytes may have to come from a disk or a network, so that requests pay off."""
        return self._fast < PATIENCE or self._any_distant()

    def ask(self, places: Array) -> bool:
        """Request rows that will be read soon, and return at once. Parameters as in :meth:`await_bytes`.

        Returns
        -------
        bool
            Whether the request read from a disk, if the system counts that.
        """
        before = disk_reads()
        for shard, ranges in self._ranges(places).items():
            self._file(shard)[0].ask(ranges)
        if was_cold := disk_reads() - before > len(places) * _BLOCKS:
            self._fast = 0  # after read-ahead, it may be as fast as from memory
        return was_cold

    def _any_distant(self) -> bool:
        return bool(self._is_distant.any())

    def _file(self, shard: int) -> tuple[MappedFile, int]:
        found = self._files[shard]
        assert found is not None  # _ranges has only mapped shards
        return found

    def _ranges(self, places: Array) -> dict[int, list[tuple[int, int]]]:
        """Ranges of bytes by shard, sorted, near ones merged."""
        row_bytes = self.columns * self.dtype.itemsize
        ranges: dict[int, list[tuple[int, int]]] = {}
        for shard, start, stop in places[np.lexsort((places[:, 1], places[:, 0]))].tolist():
            if (found := self._files[shard]) is None:  # an archive, unpacked in memory
                continue
            low, high = found[1] + start * row_bytes, found[1] + stop * row_bytes
            merged = ranges.setdefault(shard, [])
            if merged and low - merged[-1][1] <= _NEAR:
                merged[-1] = merged[-1][0], max(high, merged[-1][1])
            else:
                merged.append((low, high))
        return ranges

    def _map(self, shard: int, steps: int) -> Array:
        index = self._indexes[shard]
        fix = FIX
        location = index.arrays.get(self.name)
        for file in index.files if location is None else [index.file(location.file)]:
            size = self._folder.size(file.name)
            if size is None:
                raise SupportsetError(f"{self._folder}/{file.name}: the shard file is missing: {fix}")
            self._expect_size(file, size, fix)
        if location is None:  # an archive: unpacked into memory
            array = shard_format(index.shard_format).decode(self._folder, index.shard, self.name)
            array.flags.writeable = False  # as mappings are: other readers share it
        else:
            if location.offset + location.nbytes > index.file(location.file).size:
                raise SupportsetError(
                    f"{self._folder}/{location.file}: shorter than its index says {self.name} are: {fix}"
                )
            mapped = self._folder.map(location.file)
            if isinstance(mapped, LocalMapping):  # truncated since? Touching a missing page would kill the process
                self._expect_size(index.file(location.file), mapped.size, fix)
            part = self._join(shard, mapped)
            array = location.view(mapped.content) if part is None else part
            self._files[shard] = mapped, location.offset
            self._is_distant[shard] = not mapped.complete
            mapped.expect_random()
        if array.dtype != self.dtype or array.shape[1:] != (self.columns,) or len(array) < steps:
            raise SupportsetError(
                f"{self._folder}/{index_name(index.shard)}: its {self.name} are {array.dtype} {array.shape}, needed "
                f"are {self.dtype} ({steps}, {self.columns}): {fix}"
            )
        return array

    def _expect_size(self, file: StoredFile, size: int, fix: str) -> None:
        if size != file.size:
            raise SupportsetError(
                f"{self._folder}/{file.name}: the shard file has {size} bytes, its index says {file.size}: {fix}"
            )

    def _join(self, shard: int, mapped: MappedFile) -> Array | None:
        """The shard's part of the joined array; None if it cannot be joined."""
        if self.separate or not isinstance(mapped, LocalMapping):
            return None
        if (joined := self._joined.get("one")) is None:
            # Of two threads at once, both use the one that setdefault keeps.
            made = JoinedShards(self._indexes, self.name, self.dtype, self.columns)
            joined = self._joined.setdefault("one", made)
        row = joined.join(shard, mapped)
        if row is None or joined.array is None:
            return None
        self._first[shard] = row
        return joined.array[row : row + self._indexes[shard].arrays[self.name].shape[0]]
