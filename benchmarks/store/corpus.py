"""Made-up clips, the same in every run, and the forms in which they are stored: ours and the rivals'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from supportset.store.files.memory import empty_aligned
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.write.writer import FeatureWriter

Array = np.ndarray[Any, Any]

FORMATS = ("zarr", "hdf5")
_POOL_ROWS = 100_000


class Corpus:
    """Clips of random lengths whose features are slices of one pool of random numbers.

    Parameters
    ----------
    clips : int
        How many.
    steps : tuple[int, int]
        Shortest and longest, both included.
    dim : int
        D, numbers a step, stored as float16.

    Attributes
    ----------
    ids : of the clips
    lengths : (clips,) int64, steps of each
    offsets : (clips + 1,) int64, where each would begin if all lay packed
    """

    def __init__(self, clips: int, steps: tuple[int, int], dim: int) -> None:
        rng = np.random.default_rng(0)
        self.ids = [f"video{number:07d}" for number in range(clips)]
        self.lengths = rng.integers(steps[0], steps[1] + 1, clips)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.dim = dim
        rows = int(min(_POOL_ROWS, self.offsets[-1] + steps[1]))
        self._pool = rng.standard_normal((rows, dim), dtype=np.float32).astype(np.float16)
        self._starts = rng.integers(0, rows - self.lengths + 1)
        self._times = np.stack([np.arange(steps[1]), np.arange(1, steps[1] + 1)], axis=1).astype(np.float64)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes(self) -> int:
        """Of all features."""
        return int(self.offsets[-1]) * self.dim * 2

    @property
    def sizes(self) -> dict[str, Any]:
        """What a report says of it."""
        steps = f"{self.lengths.min()} to {self.lengths.max()}"
        return {"clips": len(self), "steps": steps, "dim": self.dim, "dtype": "float16", "mb": round(self.bytes / 1e6)}

    def clip(self, row: int) -> Array:
        """(T, D) float16."""
        return self._pool[self._starts[row] : self._starts[row] + self.lengths[row]]

    def clips(self) -> Iterator[tuple[str, Array, Array]]:
        """Id, features and timestamps of each clip."""
        for row, clip_id in enumerate(self.ids):
            yield clip_id, self.clip(row), self._times[: self.lengths[row]]

    def packed(self) -> Array:
        """All features in one array, (ΣT, D), aligned as well as ours are."""
        packed = empty_aligned((int(self.offsets[-1]), self.dim), np.float16)
        for row, (start, stop) in enumerate(zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)):
            packed[start:stop] = self.clip(row)
        return packed

    def batches(self, count: int, size: int, seed: int) -> list[Array]:
        """Rows of random batches without repeats in them, (size,) int64 each; the same for the same seed."""
        rng = np.random.default_rng([1, seed])
        return [rng.choice(len(self), size, replace=False) for _ in range(count)]

    def write_store(self, folder: Path, shard_format: str, clips_per_shard: int) -> Path:
        """Write a feature set below a folder; returns its path."""
        card = made_up_card(self.dim)
        path = folder / card.recipe.folder
        with FeatureWriter(path, card, shard_format=shard_format, clips_per_shard=clips_per_shard) as writer:
            for clip_id, values, times in self.clips():
                writer.add(clip_id, values, times)
        return path

    def write_npy(self, folder: Path) -> Path:
        """Write one ``.npy`` a clip into a folder."""
        folder.mkdir(parents=True)
        for clip_id, values, _ in self.clips():
            np.save(folder / f"{clip_id}.npy", values)
        return folder

    def write_hdf5(self, path: Path) -> Path:
        """Write an HDF5 file with one dataset a clip."""
        with h5py.File(path, "w", libver="latest") as file:
            for clip_id, values, _ in self.clips():
                file.create_dataset(clip_id, data=values)
        return path


def made_up_card(dim: int) -> FeatureCard:
    """The card of features that no backbone has made."""
    recipe = Recipe(
        kind="video",
        backbone="benchmark:random",
        weights="none",
        weights_hash="unknown",
        transform={},
        sampling={"fps": 1},
        layer="none",
        pooling="none",
        dim=dim,
        dtype="float16",
    )
    return FeatureCard(recipe, {})
