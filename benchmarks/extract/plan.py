"""What a run of the benchmark of extraction works with: sizes, a folder, a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sizes:
    """How much is measured on.

    Attributes
    ----------
    films : int
        Short videos.
    seconds : tuple[int, int]
        Shortest and longest of them.
    shape : tuple[int, int]
        (width, height) of their pictures.
    backbone : str
        That computes on them.
    long_seconds, short_seconds : int
        Of the two large videos whose memory is compared.
    large_shape : tuple[int, int]
        (width, height) of their pictures.
    device_steps : int
        Frames that the device computes in a round.
    device_films : int
        Short videos that it is given to decode.
    """

    films: int = 60
    seconds: tuple[int, int] = (10, 20)
    shape: tuple[int, int] = (640, 360)
    backbone: str = "efficientnet_lite:0"
    long_seconds: int = 3600
    short_seconds: int = 10
    large_shape: tuple[int, int] = (1920, 1080)
    device_steps: int = 50_000
    device_films: int = 400


QUICK = Sizes(
    films=2,
    seconds=(6, 6),
    shape=(320, 240),
    long_seconds=20,
    short_seconds=2,
    large_shape=(160, 120),
    device_steps=64,
    device_films=2,
)


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes
    ----------
    folder : Path
        For the files; removed by whoever made it.
    sizes : Sizes
        Of what is measured on.
    rounds : int
        That count.
    device : str
        Of the figure that is about a device; the others are about two cores.
    quick : bool
        Whether only to show that everything runs.
    tell : callable
        Prints the progress.
    """

    folder: Path
    sizes: Sizes
    rounds: int
    device: str
    quick: bool
    tell: Callable[[str], None]
