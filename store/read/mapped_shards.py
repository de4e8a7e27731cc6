"""The arrays of a set's shards as views on mapped files, made when they are first needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, MappedFile, disk_reads
from supportset.store.files.mapping import LocalMapping
from supportset.store.files.memory import copy_rows
from supportset.store.format.index import ShardIndex, StoredFile, index_name
from supportset.store.format.registry import shard_format
from supportset.store.format.shard import Array
from supportset.store.read.joined_shards import JoinedShards
from supportset.store.read.padding import packed_rows

PATIENCE = 3  # batches in a row that come from memory before nothing is asked for any more
_CLIP_SECONDS = 1e-5  # copying from memory takes at most so long a clip, even on a machine that is busy ...
_BYTE_SECONDS = 1 / 1e9  # ... and so long a byte; one page from a disk takes 50 us
# Pages that are read as they are touched take some 100 us each; to ask takes some 4 us a clip, cold or not. So a batch
# with one cold page in 16 clips, as where the kernel takes memory back bit by bit, is read without asking.
_BLOCKS = 0.5  # of 512 bytes a clip, on average, that a batch may have had read and still count as from memory
_AHEAD = 4  # batches that are remembered as asked for
_NEAR = 64 * 1024  # bytes: ranges this near are asked for as one
# Rows a clip, on average, up to which one indexed copy is faster than slices: 5 times for single rows of 1 KB, 1.2 for
# 64 of them. With more it is slower where rows are short (0.9 at 512 rows of 128 bytes), and else as fast.
_MANY = 256


class MappedShards:
    """One array, ``values`` or ``timestamps``, of each shard.

    Parameters
    ----------
    folder : of the shards
    indexes : of the shards
    name : of the array
    dtype, columns : what its rows must be
    apart : map each file on its own, so that its memory goes with the last view of it; else local files are joined
        to one array, which clips are copied from at once

    Attributes
    ----------
    views : (steps, columns) array of each shard, None as long as it was not needed
    """

    def __init__(
        self,
        folder: Folder,
        indexes: list[ShardIndex],
        name: str,
        dtype: np.dtype[Any],
        columns: int,
        *,
        apart: bool = False,
    ) -> None:
        self.name, self.dtype, self.columns, self.apart = name, dtype, columns, apart
        self._folder, self._indexes = folder, list(indexes)
        self.views: list[Array | None] = [None] * len(indexes)
        self._files: list[tuple[MappedFile, int] | None] = [None] * len(indexes)
        self._joined: dict[str, JoinedShards] = {}  # one, made with the first map
        self._first = np.full(len(indexes), -1)  # of each shard the row in the joined array; -1 where it is apart
        self._is_mapped = np.zeros(len(indexes), bool)
        self._all_mapped = False
        self._is_distant = np.zeros(len(indexes), bool)  # bytes of these must be fetched before they are touched
        self._asked: tuple[tuple[Array, bool], ...] = ()  # batches to come that were asked for, and whether a disk read
        self._was_cold = False  # the batch that is read now, when it was asked for ahead
        self._fast = 0  # batches in a row, the last one among them, that came from memory, as far as one can tell

    def extend(self, indexes: list[ShardIndex]) -> MappedShards:
        """The same with more shards behind; what is mapped stays so.

        Joined shards are joined anew, with the others, when they are next needed. Those whose files are gone by then
        keep the views that they have.
        """
        longer = MappedShards(
            self._folder, [*self._indexes, *indexes], self.name, self.dtype, self.columns, apart=self.apart
        )
        count = len(self.views)
        longer.views[:count] = self.views
        longer._files[:count] = self._files
        longer._is_distant[:count] = self._is_distant
        longer._is_mapped[:count] = [view is not None for view in longer.views[:count]]
        longer._is_mapped[:count] &= self._first < 0
        return longer

    def map(self, shards: Array, steps: Array) -> None:
        """Have views of some shards.

        Parameters
        ----------
        shards : (N,) their numbers, in any order, repeats allowed
        steps : (all shards,) rows that each must have at least

        Raises
        ------
        SupportsetError
            A file is gone, has another size than its index says, or holds something else.
        """
        if self._all_mapped:
            return
        for shard in np.unique(shards[~self._is_mapped[shards]]).tolist():
            try:
                self.views[shard] = self._map(shard, int(steps[shard]))
            except SupportsetError:
                if self.views[shard] is None:  # else it was mapped before, see extend
                    raise
            self._is_mapped[shard] = True
        self._all_mapped = bool(self._is_mapped.all())

    def await_bytes(self, places: Array) -> None:
        """Have the rows of some clips ready to be copied: fetched where they are far, read ahead where they are cold.

        On a disk, pages that must be read one by one as they are touched are some 25 times slower than asked for
        ahead, and asking for pages that lie in memory costs a third of the speed. Which of the two it is, the batches
        before tell: how much this thread has had read from disks for them, and where that is not counted, their time.

        Parameters
        ----------
        places : (N, 3) int64, of each clip its shard, which is mapped, its first row and the row after its last
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
        """Views of the rows of some clips, (T, columns) each. Parameters as :meth:`await_bytes`."""
        views: Any = self.views  # all of them mapped
        return [views[shard][start:stop] for shard, start, stop in places.tolist()]

    def copy(self, places: Array, offsets: Array, out: Array) -> None:
        """Copy the rows of some clips side by side.

        Parameters
        ----------
        places : as :meth:`await_bytes`
        offsets : (N + 1,) int64, where the rows of each go
        out : (ΣT, columns), of any dtype that holds ours
        """
        shards, starts, stops = places.T
        firsts = self._first[shards]
        few = 0 < offsets[-1] <= _MANY * len(places)
        if few and out.dtype == self.dtype and (firsts >= 0).all():
            whole = self._joined["one"].whole
            assert whole is not None  # else no shard were in it
            copy_rows(whole, packed_rows(firsts + starts, stops - starts, offsets), out)
        elif len(places):
            np.concatenate(self.slices(places), out=out)

    def copied(self, clips: int, rows: int, seconds: float, reads: int) -> None:
        """Take note of how long it took to copy a batch of some clips, of some rows in all, and of the disk reads."""
        row_bytes = self.columns * self.dtype.itemsize
        fast = (
            not self._was_cold
            and reads <= clips * _BLOCKS
            and seconds < clips * _CLIP_SECONDS + rows * row_bytes * _BYTE_SECONDS
        )
        self._fast = self._fast + 1 if fast else 0

    def ask_ahead(self, places: Array) -> None:
        """As :meth:`ask`, for a batch to come: it is not asked for once more when it is read."""
        self._asked = (*self._asked, (places, self.ask(places)))[-_AHEAD:]

    def _take_asked(self, places: Array) -> bool | None:
        """Whether a disk was read when a batch was asked for ahead; None if it was not asked for."""
        asked = self._asked  # replaced as a whole: another thread may be reading
        for number, (each, was_cold) in enumerate(asked):
            if np.array_equal(each, places):
                self._asked = asked[:number] + asked[number + 1 :]  # who reads it again later may find it cold
                return was_cold
        return None

    @property
    def cold(self) -> bool:
        """Whether bytes may have to come from a disk or over a network, so that it pays to ask for them."""
        return self._fast < PATIENCE or self._any_distant()

    def ask(self, places: Array) -> bool:
        """Say which rows will be needed soon; returns at once. Parameters as :meth:`await_bytes`.

        Returns
        -------
        bool
            Whether a disk has to be read for them, as far as the system tells.
        """
        before = disk_reads()
        for shard, ranges in self._ranges(places).items():
            self._file(shard)[0].ask(ranges)
        if was_cold := disk_reads() - before > len(places) * _BLOCKS:
            self._fast = 0  # what was asked for may come as fast as from memory, and yet came from a disk
        return was_cold

    def _any_distant(self) -> bool:
        return bool(self._is_distant.any())

    def _file(self, shard: int) -> tuple[MappedFile, int]:
        found = self._files[shard]
        assert found is not None  # only mapped shards are asked for, by _ranges
        return found

    def _ranges(self, places: Array) -> dict[int, list[tuple[int, int]]]:
        """Ranges of bytes by shard, sorted, near ones merged."""
        row_bytes = self.columns * self.dtype.itemsize
        ranges: dict[int, list[tuple[int, int]]] = {}
        for shard, start, stop in places[np.lexsort((places[:, 1], places[:, 0]))].tolist():
            if (found := self._files[shard]) is None:  # an archive: it was unpacked into memory
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
        mend = f"restore it, or delete {index_name(index.shard)} to have its clips extracted again"
        location = index.arrays.get(self.name)
        for file in index.files if location is None else [index.file(location.file)]:
            size = self._folder.size(file.name)
            if size is None:
                raise SupportsetError(f"{self._folder}/{file.name}: the shard file is gone: {mend}")
            self._expect_size(file, size, mend)
        if location is None:  # an archive, compressed: unpacked into memory as a whole
            array = shard_format(index.shard_format).decode(self._folder, index.shard, self.name)
            array.flags.writeable = False  # as maps are: a caller's change would be what everybody reads from now on
        else:
            if location.offset + location.nbytes > index.file(location.file).size:
                raise SupportsetError(
                    f"{self._folder}/{location.file}: shorter than its index says {self.name} are: {mend}"
                )
            mapped = self._folder.map(location.file)
            if isinstance(mapped, LocalMapping):  # it may have been cut since; who touches what is not there is killed
                self._expect_size(index.file(location.file), mapped.size, mend)
            part = self._join(shard, mapped)
            array = location.view(mapped.content) if part is None else part
            self._files[shard] = mapped, location.offset
            self._is_distant[shard] = not mapped.complete
            mapped.expect_random()
        if array.dtype != self.dtype or array.shape[1:] != (self.columns,) or len(array) < steps:
            raise SupportsetError(
                f"{self._folder}/{index_name(index.shard)}: its {self.name} are {array.dtype} {array.shape}, needed "
                f"are {self.dtype} ({steps}, {self.columns}): {mend}"
            )
        return array

    def _expect_size(self, file: StoredFile, size: int, mend: str) -> None:
        if size != file.size:
            raise SupportsetError(
                f"{self._folder}/{file.name}: the shard file has {size} bytes, its index says {file.size}: {mend}"
            )

    def _join(self, shard: int, mapped: MappedFile) -> Array | None:
        """The shard's array as a part of the joined one; None where that cannot be."""
        if self.apart or not isinstance(mapped, LocalMapping):
            return None
        if (joined := self._joined.get("one")) is None:
            # Of two threads that come here at once, one's is everybody's.
            made = JoinedShards(self._indexes, self.name, self.dtype, self.columns)
            joined = self._joined.setdefault("one", made)
        row = joined.join(shard, mapped)
        if row is None or joined.whole is None:
            return None
        self._first[shard] = row
        return joined.whole[row : row + self._indexes[shard].arrays[self.name].shape[0]]
