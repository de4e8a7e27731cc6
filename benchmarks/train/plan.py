"""What a run of the benchmark of training works with: sizes, a folder, a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
T5_TINY = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}


@dataclass(frozen=True)
class Sizes:
    """How much is measured on.

    Attributes
    ----------
    clips : int
        Of the made-up MSR-VTT: clips, fewest and most steps of one, width of each feature set.
    steps : tuple[int, int]
    dims : tuple[int, int]
    captions : int
        A clip.
    images, image_captions : int
        Of the made-up Flickr8k: pictures, and captions each.
    small, full : dict[str, int]
        T5 of figures a and b, and of figure c.
    vocabulary : int
        Tokens of both.
    narrow : bool
        Whether the heads are made narrow too; else they are the paper's.
    batch : int
        Captions in a step.
    bucket : int
        Batches cut together by length; what a round of figure b goes through.
    wait_steps, study_steps : int
        Of the runs of figure a, at the paper's sizes and at those of the studies.
    full_clips, full_steps : int
        Clips and steps of figure c.
    """

    clips: int = 400
    steps: tuple[int, int] = (10, 30)
    dims: tuple[int, int] = (2048, 512)
    captions: int = 20
    images: int = 1500
    image_captions: int = 5
    small: dict[str, int] = field(default_factory=lambda: dict(T5_SMALL))
    full: dict[str, int] = field(default_factory=lambda: dict(T5_BASE))
    vocabulary: int = 32128
    narrow: bool = False
    batch: int = 64
    bucket: int = 5
    wait_steps: int = 12
    study_steps: int = 58
    full_clips: int = 9_000
    full_steps: int = 240


QUICK = Sizes(
    clips=24,
    dims=(24, 8),
    captions=3,
    images=40,
    small=dict(T5_TINY),
    full=dict(T5_TINY),
    vocabulary=300,
    narrow=True,
    batch=16,
    bucket=2,
    wait_steps=4,
    study_steps=4,
    full_clips=24,
    full_steps=4,
)


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes
    ----------
    folder : Path
        For the files; removed by whoever made it.
    real : Path
        Folder with ``msrvtt/`` (annotations) and ``t5_tokenizer/``; what is absent there is made up.
    sizes : Sizes
        Of what is measured on.
    rounds : int
        That count.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    quick : bool
        Whether only to show that everything runs.
    tell : callable
        Prints the progress.
    """

    folder: Path
    real: Path
    sizes: Sizes
    rounds: int
    device: str
    quick: bool
    tell: Callable[[str], None]
