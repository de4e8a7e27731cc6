"""Extract some clips again and compare them with the store.

Each clip is decoded in this process and computed a few steps at a time. Nothing of the run's packing, sharing and
queueing is used, so errors there are found.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.outcome import DecodeError
from supportset.extract.pipeline.forward import Forward, describe_device
from supportset.extract.pipeline.recipe import fit_sampling
from supportset.extract.recheck.recorded import Makers, recorded_sampling
from supportset.extract.recheck.tolerance import tolerance
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import hash_file
from supportset.store.format.dataset import Dataset
from supportset.store.format.status import DAMAGED
from supportset.store.read.feature_set import FeatureSet

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone

AGREES = "agrees"
DIFFERS = "differs"
CHANGED = "changed"  # the file has changed since
ABSENT = "absent"  # there is no file to compare with

_BATCH = 8  # steps of a forward; fewer for windows


@dataclass(frozen=True)
class Comparison:
    """The comparison of one clip.

    Attributes
    ----------
    clip_id, path : str
        Path relative to the videos' root.
    outcome : str
        ``agrees``, ``differs``, ``changed`` or ``absent``.
    steps : int
        Compared steps.
    worst, mean : float
        Relative difference of a step's vector, ‖new − stored‖ / ‖stored‖.
    cosine : float
        The smallest cosine of a step.
    tolerance : float
        The limit of ``worst``.
    says : str
        What is wrong, in one line.
    """

    clip_id: str
    path: str
    outcome: str
    steps: int = 0
    worst: float = 0.0
    mean: float = 0.0
    cosine: float = 1.0
    tolerance: float = 0.0
    says: str = ""


@dataclass
class Reextraction:
    """The result of comparing some clips.

    Attributes
    ----------
    backbone : str
        Name that it was loaded by.
    device : str
        Of the new forward.
    seed : int
        The same seed chooses the same clips.
    clips : list[Comparison]
        All selected clips, absent ones included.
    """

    backbone: str
    device: str
    seed: int
    clips: list[Comparison] = field(default_factory=list)

    @property
    def compared(self) -> list[Comparison]:
        """Clips that have a file."""
        return [clip for clip in self.clips if clip.outcome != ABSENT]

    @property
    def wrong(self) -> list[Comparison]:
        """Clips whose features differ from those of their files."""
        return [clip for clip in self.clips if clip.outcome in (DIFFERS, CHANGED)]

    def in_words(self) -> str:
        """One line: how many agree, and the relative differences."""
        told = self.to_json()
        words = f"{len(self.compared):,} clips extracted again (seed {self.seed}, on {self.device}): "
        words += ", ".join(f"{count:,} {outcome}" for outcome, count in told["outcomes"].items())
        if told["worst"] is None:
            return words
        limit = max(clip.tolerance for clip in self.clips)
        return (
            f"{words}; relative difference at worst {told['worst']:.2g}, {told['mean']:.2g} in the mean "
            f"(up to {limit:.2g} is rounding), cosine at least {told['cosine']:.6f}"
        )

    def to_json(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        measured = [clip for clip in self.clips if clip.steps]
        return {
            "backbone": self.backbone,
            "device": self.device,
            "seed": self.seed,
            "compared": len(self.compared),
            "outcomes": dict(Counter(clip.outcome for clip in self.clips)),
            "worst": max((clip.worst for clip in measured), default=None),
            "mean": float(np.mean([clip.mean for clip in measured])) if measured else None,
            "cosine": min((clip.cosine for clip in measured), default=None),
            "clips": [vars(clip) for clip in self.clips],
        }


def reextract(
    feature_set: FeatureSet,
    dataset: Dataset,
    videos_root: Path,
    backbone: Backbone,
    count: int,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    exclude: Collection[str] = (),
) -> Reextraction:
    """Extract some clips again and compare them with what is stored. Nothing is written.

    Parameters
    ----------
    feature_set : FeatureSet
    dataset : Dataset
        Its tables name the part of the file that a clip is.
    videos_root : Path
        Folder that the index's paths are relative to.
    backbone : Backbone
        That of the feature set, see ``recorded.load_recorded_backbone``. Moved to the device.
    count : int
        How many clips, chosen at random among those that have features and a file.
    seed : int
        Seed of the choice.
    device : torch.device or str
    exclude : collection of str
        Clips known to be damaged; left out.

    Returns
    -------
    Reextraction

    Raises
    ------
    UsageError
        Not one clip has a file below ``videos_root``, or the count is none.
    SupportsetError
        Stored features cannot be read.
    """
    if count < 1:
        raise UsageError(f"{count} clips to extract again: give at least 1")
    place = torch.device(device)
    found = Reextraction(backbone.given, describe_device(place), seed)
    spans = _spans(dataset)
    makers = Makers(feature_set)
    for row in _shuffled(feature_set, seed, exclude):
        if len(found.compared) == count:
            break
        outcome = _of_file(row, videos_root)
        if outcome is None:
            made = makers.of(row["shard"])
            backbone.to(place, made.precision)
            limit = tolerance(made.loosest, feature_set.card.recipe.dtype, (*made.devices, found.device))
            outcome = _compare(feature_set, row, videos_root, spans.get(row["clip_id"], (None, None)), backbone, limit)
        found.clips.append(outcome)
    if not found.compared:
        raise UsageError(
            f"{videos_root}: holds no file of the {len(found.clips):,} clips with features in {feature_set.path}: "
            "--videos DIR names the folder that does"
        )
    return found


def _shuffled(feature_set: FeatureSet, seed: int, exclude: Collection[str]) -> Iterator[dict[str, Any]]:
    """Return the rows of clips with features, in a random order that does not depend on the shards."""
    rows = feature_set.rows()
    lengths, ids = rows["length"].to_pylist(), rows["clip_id"].to_pylist()
    place = {clip_id: i for i, clip_id in enumerate(ids) if lengths[i] and clip_id not in exclude}
    chosen = sorted(place)
    random.Random(seed).shuffle(chosen)
    return (rows.slice(place[clip_id], 1).to_pylist()[0] for clip_id in chosen)


def _spans(dataset: Dataset) -> dict[str, tuple[float | None, float | None]]:
    columns = (dataset.clips[name].to_pylist() for name in ("clip_id", "start_s", "end_s"))
    return {clip_id: (start, end) for clip_id, start, end in zip(*columns, strict=True)}


def _of_file(row: dict[str, Any], videos_root: Path) -> Comparison | None:
    """Return the outcome that follows from the file alone; None if the file is unchanged."""
    clip_id, path = row["clip_id"], row["source_path"]
    if path is None:
        return Comparison(clip_id, "", ABSENT, says="the index names no file of it")
    file = videos_root / path
    try:
        now = os.stat(file)
    except OSError:
        return Comparison(clip_id, path, ABSENT, says=f"there is no file {file}")
    if (now.st_size, now.st_mtime_ns) == (row["source_size"], row["source_mtime_ns"]):
        return None
    try:
        same = now.st_size == row["source_size"] and row["source_hash"] in (None, hash_file(file))
    except SupportsetError as error:
        return Comparison(clip_id, path, DIFFERS, says=str(error))
    return (
        None if same else Comparison(clip_id, path, CHANGED, says="the file was changed: `extract` extracts it again")
    )


def _compare(
    feature_set: FeatureSet,
    row: dict[str, Any],
    videos_root: Path,
    span: tuple[float | None, float | None],
    backbone: Backbone,
    limit: float,
) -> Comparison:
    clip_id, path = row["clip_id"], row["source_path"]
    result = Comparison(clip_id, path, DIFFERS, tolerance=limit)
    sampling = fit_sampling(recorded_sampling(feature_set.card.recipe), backbone)
    try:
        values, times = _extract(videos_root / path, span, sampling, backbone)
    except DecodeError as error:
        return replace(result, says=f"the file cannot be decoded now: {error}")
    stored, stored_times = feature_set.read([clip_id])[0].astype(np.float64), feature_set.read_timestamps([clip_id])
    if times.shape != stored_times.shape or not np.allclose(times, stored_times, rtol=0, atol=1e-9):
        return replace(result, says=f"gives {len(times)} steps, not the {len(stored_times)} at the times stored")
    relative, cosine = _distances(values, stored)
    worst = int(relative.argmax())
    result = replace(
        result,
        steps=len(relative),
        worst=float(relative[worst]),
        mean=float(relative.mean()),
        cosine=float(cosine.min()),
    )
    if result.worst <= limit:
        return replace(result, outcome=AGREES)
    return replace(
        result,
        says=f"relative difference {result.worst:.2g} at {times[worst, 0]:.2f} s, more than {limit:.2g}",
    )


def _extract(
    file: Path, span: tuple[float | None, float | None], sampling: Sampling, backbone: Backbone
) -> tuple[np.ndarray, np.ndarray]:
    """Features (T, D) float64 and times (T, 2) of one clip; of a damaged clip, those that can be decoded."""
    many = max(1, _BATCH // sampling.window)
    forward = Forward(backbone, many)
    values: list[np.ndarray] = []
    times: list[tuple[float, float]] = []
    held: list[np.ndarray] = []

    def flush() -> None:
        if held:
            values.append(forward(torch.from_numpy(np.stack(held))).double().cpu().numpy())
            held.clear()

    try:
        for step in decode_clip(file, *span, sampling, transform=backbone.frame_transform()):
            held.append(step.frames)
            times.extend([(step.start_s, step.end_s)] * backbone.vectors)
            if len(held) == many:
                flush()
    except DecodeError as error:
        if error.outcome.status != DAMAGED or not times:
            raise
    flush()
    return np.concatenate(values), np.array(times)


def _distances(new: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative difference and cosine of each step; two vectors of zeros are equal."""
    tiny = np.finfo(np.float64).tiny
    lengths = np.linalg.norm(new, axis=1), np.linalg.norm(stored, axis=1)
    relative = np.linalg.norm(new - stored, axis=1) / np.maximum(np.where(lengths[1] > 0, lengths[1], lengths[0]), tiny)
    cosine = np.where(relative == 0, 1.0, (new * stored).sum(1) / np.maximum(lengths[0] * lengths[1], tiny))
    return relative, cosine
