"""What a run of the store's benchmark works with: sizes, a folder, and the clips written there once for all figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.store.corpus import FORMATS, Corpus


@dataclass(frozen=True)
class Sizes:
    """How much is measured on.

    Attributes
    ----------
    clips : int
        Of the corpus that fits into memory.
    steps : tuple[int, int]
    dim : int
    batch : int
        Clips in a batch.
    batches : int
        In a round.
    shard : int
        Clips in a shard.
    cold, cold_batches : int
        Clips of the cold corpus, and batches in a round on it.
    written : int
        Clips that are written in a round.
    many : int
        Of the corpus of very many small clips.
    many_dim : int
    many_steps : tuple[int, int]
    """

    clips: int = 10_000
    steps: tuple[int, int] = (8, 60)
    dim: int = 512
    batch: int = 256
    batches: int = 8
    shard: int = 1_000
    cold: int = 100_000
    cold_batches: int = 24
    written: int = 2_000
    many: int = 1_000_000
    many_dim: int = 32
    many_steps: tuple[int, int] = (2, 8)


QUICK = Sizes(clips=200, dim=32, batch=32, batches=2, shard=50, cold=300, cold_batches=2, written=100, many=1_000)


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
        That count, for what takes milliseconds; what takes seconds has a third of them.
    tell : callable
        Prints the progress.
    """

    folder: Path
    sizes: Sizes
    rounds: int
    tell: Callable[[str], None]

    @property
    def few_rounds(self) -> int:
        """Rounds of what takes seconds."""
        return max(1, self.rounds // 3)

    @cached_property
    def corpus(self) -> Corpus:
        """The clips that fit into memory."""
        return Corpus(self.sizes.clips, self.sizes.steps, self.sizes.dim)

    @cached_property
    def stores(self) -> dict[str, Path]:
        """The corpus as feature sets, by shard format."""
        self.tell(f"writing {len(self.corpus):,} clips, {self.corpus.bytes / 1e6:,.0f} MB, in our formats")
        return {name: self.corpus.write_store(self.folder / name, name, self.sizes.shard) for name in FORMATS}

    @cached_property
    def npy(self) -> Path:
        """The corpus as one ``.npy`` a clip."""
        self.tell("the same as one .npy a clip")
        return self.corpus.write_npy(self.folder / "npy")

    @cached_property
    def hdf5(self) -> Path:
        """The corpus as one HDF5 dataset a clip."""
        self.tell("the same as one HDF5 dataset a clip")
        return self.corpus.write_hdf5(self.folder / "datasets.h5")
