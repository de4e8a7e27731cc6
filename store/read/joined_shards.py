"""The arrays of many shards as one array, so that a batch is one indexed copy.

For small clips, a slice and a copy of each cost more than its bytes, and the objects of a thousand shards do not stay
in the processor's cache. So the shard files are mapped into one range of addresses. Each begins on a page such that
its array is a whole number of rows after the first array. Unless a row is a power of two, some pages stay unused.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from supportset.store.files.address_range import AddressRange
from supportset.store.files.mapping import LocalMapping
from supportset.store.format.index import ShardIndex
from supportset.store.format.shard import Array


class JoinedShards:
    """One array of many shards: of those that were joined.

    Parameters
    ----------
    indexes : list of ShardIndex
        Indexes of the shards.
    name : str
        Of the array, ``values`` or ``timestamps``.
    dtype : numpy.dtype
        Dtype of a row.
    columns : int
        Length of a row.

    Attributes
    ----------
    array : (rows, columns) array
        Read-only; None where the system does not offer it. No rows but those of shards that were joined may be
        touched.
    """

    def __init__(self, indexes: list[ShardIndex], name: str, dtype: np.dtype[Any], columns: int) -> None:
        row_bytes = columns * dtype.itemsize
        spans = [_span(index, name, dtype, columns) for index in indexes]
        origin, self._places = lay_out(spans, row_bytes, mmap.PAGESIZE)
        self._addresses: AddressRange | None = None
        self.array: Array | None = None
        try:
            self._addresses = AddressRange(max((place.at + place.size for place in self._places if place), default=0))
        except OSError:  # each shard is mapped separately
            return
        rows = (self._addresses.size - origin) // row_bytes
        content = np.asarray(self._addresses)[origin : origin + rows * row_bytes]
        self.array = content.view(dtype).reshape(rows, columns)

    def join(self, shard: int, mapped: LocalMapping) -> int | None:
        """Map a shard's array to its place; may be repeated.

        Parameters
        ----------
        shard : int
            Its number.
        mapped : LocalMapping
            The file, with the size in the index. It is mapped only here, and closed.

        Returns
        -------
        int or None
            First row in ``array``; None if the file cannot be joined, and is unchanged.
        """
        place, addresses = self._places[shard], self._addresses
        if place is None or addresses is None:
            return None
        try:
            mapped.place(addresses, place.offset, place.at, place.size)
        except OSError:  # such as too many mappings: this file and later ones are mapped separately
            self._addresses = None
            return None
        return place.row


class Place(NamedTuple):
    """Place of an array in the range of addresses.

    Attributes
    ----------
    offset : int
        In the file, of the page that the array begins in.
    at : int
        Of this page in the range.
    size : int
        Bytes from there to the place of the next array.
    row : int
        Number that the array's first row has.
    """

    offset: int
    at: int
    size: int
    row: int


def lay_out(spans: Sequence[tuple[int, int] | None], row_bytes: int, page: int) -> tuple[int, list[Place | None]]:
    """Compute the places of arrays, in order, at distances of whole rows.

    An array that begins ``lead`` bytes after the begin of a page, which is mapped to page k of the range, must be
    there at ``origin`` and whole rows. With g, the greatest common divisor of a page and a row, one k in each
    row_bytes / g solves that, if ``origin`` and ``lead`` differ by a multiple of g.

    Parameters
    ----------
    spans : sequence of tuple of (int, int) or None
        Offset in its file and bytes of each array; None for one that gets no place.
    row_bytes : int
        Of all arrays.
    page : int
        Bytes of a page.

    Returns
    -------
    origin : bytes from the beginning of the range to row 0
    places : None for an array whose offset does not go with those of the most
    """
    common = math.gcd(page, row_bytes)
    period = row_bytes // common
    inverse = pow(page // common, -1, period)
    residues = Counter(span[0] % common for span in spans if span)
    origin = residues.most_common(1)[0][0] if residues else 0
    places: list[Place | None] = []
    previous, free = -1, 0  # number of the last one that got a place; pages
    for number, span in enumerate(spans):
        if span is None or span[0] % common != origin:
            places.append(None)
            continue
        offset, size = span
        lead = offset % page
        free += ((origin - lead) // common * inverse - free) % period
        at = free * page
        free += -(-(lead + size) // page)
        places.append(Place(offset - lead, at, free * page - at, (at + lead - origin) // row_bytes))
        if previous >= 0 and (before := places[previous]):
            # Unused pages between two files would be one more mapping, and systems limit their number.
            places[previous] = before._replace(size=at - before.at)
        previous = number
    return origin, places


def _span(index: ShardIndex, name: str, dtype: np.dtype[Any], columns: int) -> tuple[int, int] | None:
    """Offset and size of an array, if its index allows to join it; else reading it reports the fault."""
    location = index.arrays.get(name)
    if location is None or location.view_dtype != dtype or location.shape[1:] != (columns,):
        return None
    size = location.shape[0] * columns * dtype.itemsize
    fits = location.offset >= 0 and location.offset + size <= index.file(location.file).size
    return (location.offset, size) if fits and size > 0 and location.offset % dtype.itemsize == 0 else None
