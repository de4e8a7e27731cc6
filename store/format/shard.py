"""Shards: the ragged features of some hundred clips, in a form that plain libraries open.

A shard is three arrays: ``values`` (ΣT, D), ``timestamps`` (ΣT, 2) float64 seconds (each step's
start and end) and ``offsets`` (N + 1) int64: clip ``i`` has the rows ``offsets[i]:offsets[i + 1]``.
The two formats turn them into files and say where in those files the numbers lie, uncompressed and
in one run, so that a reader can map them. Neither touches a disk: :mod:`supportset.store.files` does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import Folder, Parts

Array = np.ndarray[Any, Any]

ARRAYS = ("values", "timestamps", "offsets")
DEFAULT_LEVEL = 3  # of compression


@dataclass(frozen=True)
class ShardArrays:
    """The content of a shard.

    Attributes
    ----------
    values : (ΣT, D) float16 or float32
    timestamps : (ΣT, 2) float64, seconds
    offsets : (N + 1,) int64, from 0 to ΣT
    """

    values: Array
    timestamps: Array
    offsets: Array

    @classmethod
    def pack(cls, values: Sequence[Array], timestamps: Sequence[Array]) -> ShardArrays:
        """Lay clips side by side."""
        lengths = np.array([len(clip) for clip in values], dtype=np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(np.concatenate(values), np.concatenate(timestamps), offsets)

    def items(self) -> list[tuple[str, Array]]:
        """Name and little-endian, C-contiguous form of each array."""
        stored = {"values": self.values.dtype, "timestamps": np.dtype(np.float64), "offsets": np.dtype(np.int64)}
        return [
            (name, np.ascontiguousarray(getattr(self, name), dtype=dtype.newbyteorder("<")))
            for name, dtype in stored.items()
        ]


@dataclass(frozen=True)
class Location:
    """Where an array's numbers lie: in one run of one file, uncompressed, C order, little-endian.

    Attributes
    ----------
    file : name relative to the ``shards`` folder
    offset : of the first byte
    dtype : ``float16``, ``float32``, ``float64`` or ``int64``
    shape : of the array
    """

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Number of bytes from ``offset`` on."""
        return self.view_dtype.itemsize * math.prod(self.shape)

    @property
    def view_dtype(self) -> np.dtype[Any]:
        """The dtype with its byte order."""
        return np.dtype(self.dtype).newbyteorder("<")

    def view(self, content: memoryview) -> Array:
        """The array as a view on the file's content, without a copy."""
        count = int(np.prod(self.shape))
        return np.frombuffer(content, self.view_dtype, count, self.offset).reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """The location as a JSON object."""
        return {"file": self.file, "offset": self.offset, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Location:
        """Read what :meth:`to_json` gave."""
        return cls(data["file"], data["offset"], data["dtype"], tuple(data["shape"]))


@dataclass(frozen=True)
class EncodedShard:
    """A shard as files.

    Attributes
    ----------
    files : content by name relative to the ``shards`` folder; all share their first component
    arrays : where ``values``, ``timestamps`` and ``offsets`` lie in them; empty where they are compressed
    """

    files: dict[str, Parts]
    arrays: dict[str, Location]


@dataclass(frozen=True)
class Compression:
    """How the arrays of an archive are packed, without loss.

    Attributes
    ----------
    codec : ``zstd`` or ``gzip``, after the bytes of the numbers were sorted by their place in the number, which makes
        the saving on floats about twice as large
    level : 1 (fast) to 9 (small)
    """

    codec: str
    level: int

    def __str__(self) -> str:
        return f"{self.codec}:{self.level}"


class ShardFormat(ABC):
    """One way to write a shard as files.

    Attributes
    ----------
    name : what users call it
    suffix : of the shard's file or folder
    codec : that its archives are compressed with: one that the format's library reads without any plugin
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    codec: ClassVar[str]

    def compression(self, text: str) -> Compression | None:
        """Read ``none``, ``CODEC`` or ``CODEC:LEVEL``.

        Raises
        ------
        UsageError
            Not the format's codec, or no level from 1 to 9.
        """
        if text == "none":
            return None
        codec, colon, level = text.partition(":")
        if codec != self.codec:
            raise UsageError(f"compression {text!r}: {self.name} is compressed with {self.codec}[:1-9], or none")
        if colon and level not in list("123456789"):
            raise UsageError(f"compression {text!r}: the level is a number from 1 (fast) to 9 (small)")
        return Compression(codec, int(level or DEFAULT_LEVEL))

    def root(self, shard: str) -> str:
        """Name of a shard's file or folder."""
        return shard + self.suffix

    @abstractmethod
    def encode(self, shard: str, arrays: ShardArrays, compression: Compression | None = None) -> EncodedShard:
        """Turn a shard into files, sharing memory with the arrays where that can be.

        Parameters
        ----------
        shard : id
        arrays : its content
        compression : makes it an archive, which readers unpack as a whole instead of mapping it
        """

    @abstractmethod
    def is_compressed(self, folder: Folder, shard: str, compression: Compression) -> bool:
        """Whether a shard of this format is an archive of exactly this compression.

        Raises
        ------
        SupportsetError
            A file is absent or damaged.
        """

    @abstractmethod
    def locate(self, folder: Folder, shard: str) -> dict[str, Location]:
        """Find the arrays' bytes by parsing the files, as a foreign reader would.

        Raises
        ------
        SupportsetError
            A file is absent or damaged, or an array is not stored uncompressed in one run.
        """

    @abstractmethod
    def decode(self, folder: Folder, shard: str, name: str) -> Array:
        """Read a whole array through the format's own library, whatever its compression.

        Raises
        ------
        SupportsetError
            A file is absent or damaged.
        """

    def absent(self, folder: Folder, name: str, shard: str) -> SupportsetError:
        """Error for a file of a shard that is not there."""
        return SupportsetError(
            f"{folder}/{name}: the file is gone or empty: "
            f"restore it, or delete {shard}.parquet to have its clips extracted again"
        )


def shard_format(name: str) -> ShardFormat:
    """Look up a shard format by its name.

    Raises
    ------
    UsageError
        Names the known ones.
    """
    from supportset.store.format.hdf5_shard import Hdf5Format  # here, because both modules import this one
    from supportset.store.format.zarr_shard import ZarrFormat

    formats: dict[str, ShardFormat] = {"zarr": ZarrFormat(), "hdf5": Hdf5Format()}
    if name not in formats:
        raise UsageError(f"shard format {name!r} is not known: use one of {', '.join(formats)}")
    return formats[name]
