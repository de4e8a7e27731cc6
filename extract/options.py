"""What an extraction run is asked for: which clips, and how they are extracted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from supportset.store.errors import UsageError
from supportset.store.format.registry import shard_format as check_shard_format


@dataclass(frozen=True)
class Selection:
    """Which clips of a dataset a run extracts; by default all.

    Attributes
    ----------
    protocol : str, optional
        Only clips of this protocol.
    split : str, optional
        Only clips of this split (of any protocol that has it).
    limit : int, optional
        Only the first clips of these.
    shard : (int, int), optional
        (i, n): of the remaining clips, the i-th (from 1) of n disjoint parts.
    retry_failed : bool
        Whether clips that failed in earlier runs are tried again.
    """

    protocol: str | None = None
    split: str | None = None
    limit: int | None = None
    shard: tuple[int, int] | None = None
    retry_failed: bool = False


@dataclass(frozen=True)
class Execution:
    """How a run extracts, and what it stores.

    Attributes
    ----------
    device : str
        ``auto``, or devices separated by commas: :func:`supportset.extract.pipeline.devices.pick_devices`.
    processes : int, optional
        Extraction processes of this machine, or of the Ray cluster. Default: one a GPU.
    ray : str, optional
        Address of a Ray cluster, or ``local``.
    precision : str
        Of the forward: ``fp32``, ``bf16`` or ``fp16``.
    compile : bool
        Whether ``torch.compile`` translates the forward; the run continues without where that fails.
    batch_size : int, optional
        Steps of one forward. Default: 8 on a CPU, measured on a GPU.
    workers : int, optional
        Decode processes of each extraction process. Default: half of its cores where the model runs on them, else all
        but one.
    decoder : str
        A name of :mod:`supportset.extract.decode.decoders`, or ``auto``.
    timeout : float
        Seconds without progress on a clip after which its decode worker is killed; and CPU seconds that a file may
        take for each MB of its size.
    dtype : str
        As stored: ``float16`` or ``float32``. A value that does not fit fails its clip (``overflow``).
    shard_format : str
        A name of :mod:`supportset.store.format.registry`.
    clips_per_shard : int
        A shard is sealed when it has this many clips with features. A killed process loses what is not sealed.
    seconds_per_shard : float
        A shard is sealed after this time at the latest.
    on_error : str
        ``stop`` ends the run at the first clip that fails; ``skip`` records it.
    on_damage : str
        Whether features of damaged clips are kept (``keep``) or not (``drop``).
    max_failures : float
        The exit code is 1 if a larger share of the present clips has no features.
    strict : bool
        Whether the exit code is 1 if anything is missing, failed or damaged.
    thumbnails : int
        Most thumbnails of a clip, stored beside its features; 0: none.
    max_disk : int, optional
        Bytes that the features may need, by an estimate before the run. Default: 100 GB, and what is free on the disk.

    Raises
    ------
    UsageError
        A value that no run can have.
    """

    device: str = "auto"
    processes: int | None = None
    ray: str | None = None
    precision: str = "fp32"
    compile: bool = False
    batch_size: int | None = None
    workers: int | None = None
    decoder: str = "auto"
    timeout: float = 600.0
    dtype: str = "float16"
    shard_format: str = "zarr"
    clips_per_shard: int = 500
    seconds_per_shard: float = 300.0
    on_error: Literal["skip", "stop"] = "skip"
    on_damage: Literal["keep", "drop"] = "keep"
    max_failures: float = 0.05
    strict: bool = False
    thumbnails: int = 0
    max_disk: int | None = None

    def __post_init__(self) -> None:
        check_shard_format(self.shard_format)
        for name, choices in (("on_error", ("skip", "stop")), ("on_damage", ("keep", "drop"))):
            if (value := getattr(self, name)) not in choices:
                raise UsageError(f"{name}={value!r} is not one of {', '.join(choices)}")
        if not 0 <= self.max_failures <= 1:
            raise UsageError(f"max_failures={self.max_failures} is not a share from 0 to 1")
        if self.thumbnails < 0:
            raise UsageError(f"thumbnails={self.thumbnails} is not a number of pictures")
        for name in ("timeout", "workers", "batch_size"):
            if (number := getattr(self, name)) is not None and not number > 0:
                raise UsageError(f"{name}={number} should be above 0")
