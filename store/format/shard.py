"""Shards: the ragged features of some hundred clips, in files that other libraries open.

A shard has three arrays: ``values`` (ΣT, D), ``timestamps`` (ΣT, 2) float64 seconds (start and end of each step)
and ``offsets`` (N + 1,) int64. Clip ``i`` has the rows ``offsets[i]:offsets[i + 1]``. A format encodes the arrays as
files, and locates them there: uncompressed and contiguous, so that a reader can map them. A format does no disk access:
:mod:`supportset.store.files` does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import Folder, Parts, fetched

Array = np.ndarray[Any, Any]

ARRAYS = ("values", "timestamps", "offsets")
DTYPES = ("uint8", "float16", "float32", "float64", "int64")
DEFAULT_LEVEL = 3  # of compression


@dataclass(frozen=True)
class ShardArrays:
    """The content of a shard.

    Attributes
    ----------
    values : (ΣT, D) float16 or float32; uint8 of thumbnails
    timestamps : (ΣT, 2) float64
        Seconds.
    offsets : (N + 1,) int64
        From 0 to ΣT.
    """

    values: Array
    timestamps: Array
    offsets: Array

    @classmethod
    def pack(cls, values: Sequence[Array], timestamps: Sequence[Array]) -> ShardArrays:
        """Concatenate clips."""
        lengths = np.array([len(clip) for clip in values], dtype=np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(np.concatenate(values), np.concatenate(timestamps), offsets)

    def items(self) -> list[tuple[str, Array]]:
        """Return the name and the little-endian, C-contiguous form of each array."""
        stored = {"values": self.values.dtype, "timestamps": np.dtype(np.float64), "offsets": np.dtype(np.int64)}
        return [
            (name, np.ascontiguousarray(getattr(self, name), dtype=dtype.newbyteorder("<")))
            for name, dtype in stored.items()
        ]


@dataclass(frozen=True)
class Location:
    """Place of an array in a file: uncompressed, contiguous, C order, little-endian.

    Attributes
    ----------
    file : str
        Name relative to the ``shards`` folder.
    offset : int
        Position of the first byte.
    dtype : str
        ``uint8``, ``float16``, ``float32``, ``float64`` or ``int64``.
    shape : tuple of int
    """

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.view_dtype.itemsize * math.prod(self.shape)

    @property
    def view_dtype(self) -> np.dtype[Any]:
        """Dtype with its byte order."""
        return np.dtype(self.dtype).newbyteorder("<")

    def view(self, content: memoryview) -> Array:
        """Return the array as a view of the file's content."""
        count = int(np.prod(self.shape))
        return np.frombuffer(content, self.view_dtype, count, self.offset).reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"file": self.file, "offset": self.offset, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Location:
        """Inverse of :meth:`to_json`."""
        return cls(data["file"], data["offset"], data["dtype"], tuple(data["shape"]))


@dataclass(frozen=True)
class EncodedShard:
    """A shard as files.

    Attributes
    ----------
    files : dict
        Content by name, relative to the ``shards`` folder. All names share their first component.
    arrays : dict
        Location of ``values``, ``timestamps`` and ``offsets``; empty for an archive.
    """

    files: dict[str, Parts]
    arrays: dict[str, Location]


@dataclass(frozen=True)
class Compression:
    """Lossless compression of an archive.

    Attributes
    ----------
    codec : str
        ``zstd`` or ``gzip``, after the bytes of the numbers were sorted by their place in the number, which
        makes the saving on floats about twice as large.
    level : int
        1 (fast) to 9 (small).
    """

    codec: str
    level: int

    def __str__(self) -> str:
        return f"{self.codec}:{self.level}"


class ShardFormat(ABC):
    """One way to write a shard as files. To add one, see :mod:`supportset.store.format.registry`.

    Attributes
    ----------
    name : str
        What users call the format.
    suffix : str
        Of the shard's file or folder: a dot and one word.
    codec : str or None
        What its archives are compressed with: a codec that the format's library reads without a plugin. None: the
        format has no archives.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    codec: ClassVar[str | None] = None

    def compression(self, text: str) -> Compression | None:
        """Parse ``none``, ``CODEC`` or ``CODEC:LEVEL``.

        Raises
        ------
        UsageError
            The codec is not the format's, or the level is not 1 to 9.
        """
        if text == "none":
            return None
        codec, colon, level = text.partition(":")
        if codec != self.codec:
            possible = f"use {self.codec}[:1-9] or none" if self.codec else "use none, this format has no archives"
            raise UsageError(f"compression {text!r} of {self.name}: {possible}")
        if colon and level not in list("123456789"):
            raise UsageError(f"compression {text!r}: the level is a number from 1 (fast) to 9 (small)")
        return Compression(codec, int(level or DEFAULT_LEVEL))

    def root(self, shard: str) -> str:
        """Return the name of a shard's file or folder."""
        return shard + self.suffix

    @abstractmethod
    def encode(self, shard: str, arrays: ShardArrays, compression: Compression | None = None) -> EncodedShard:
        """Encode a shard as files, which share memory with the arrays where that is possible.

        Parameters
        ----------
        shard : str
            Id of the shard.
        arrays : ShardArrays
            Its content.
        compression : Compression, optional
            Make an archive: readers unpack it as a unit and do not map it.
        """

    @abstractmethod
    def locate(self, folder: Folder, shard: str) -> dict[str, Location]:
        """Find the bytes of the arrays by parsing the files, as another program would.

        Raises
        ------
        SupportsetError
            A file is missing or damaged, or an array is not uncompressed and contiguous.
        """

    def decode(self, folder: Folder, shard: str, name: str) -> Array:
        """Read one array completely. A format with archives reads it with the format's library.

        Raises
        ------
        SupportsetError
            A file is missing or damaged.
        """
        location = self.locate(folder, shard)[name]
        return location.view(fetched(folder.map(location.file))).copy()

    def is_compressed(self, folder: Folder, shard: str, compression: Compression) -> bool:
        """Tell whether a shard of this format is an archive with exactly this compression.

        Raises
        ------
        SupportsetError
            A file is missing or damaged.
        """
        return False

    def missing(self, folder: Folder, name: str, shard: str) -> SupportsetError:
        """Make the error for a missing or empty file of a shard."""
        return SupportsetError(
            f"{folder}/{name}: the file is missing or empty: "
            "restore it, or run `store verify --drop-damaged` and then the same `extract` again"
        )
