"""Features of an image or video file that is no clip of the store, computed as those of the store's clips were.

The file is decoded in a worker process, with bounds as in an extraction: what it kills or hangs is the worker. The
forward is in this process.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supportset.store.errors import UsageError
from supportset.store.format.status import DAMAGED, OK
from supportset.store.read.aligned import resample
from supportset.store.read.feature_set import FeatureSet

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone
    from supportset.extract.workers.pool import DecodePool

_STEPS = 8  # of a forward


@dataclass(frozen=True)
class Limits:
    """Bounds on a file that is a query.

    Attributes
    ----------
    steps : int
        A longer video is refused.
    cpu_seconds : float
        Of decoding, for each begun megabyte of the file.
    memory : int
        Bytes of the process that decodes.
    silent_s : float
        Seconds without progress after which the process is killed.
    seconds : float
        For all of a file: time of decoding and of the forward.
    """

    steps: int = 1800
    cpu_seconds: float = 60.0
    memory: int = 4 * 2**30
    silent_s: float = 60.0
    seconds: float = math.inf


class MediaEncoder:
    """Computes features of files. Models are loaded, and a decode process is started, on first use.

    Parameters
    ----------
    sets : sequence of FeatureSet
        The sets whose recipes are followed; their features stand side by side.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    names : sequence of str
        Name or path of each set's visual encoder on this machine; none: as recorded.
    limits : Limits
        Bounds on a file.
    """

    def __init__(
        self, sets: Sequence[FeatureSet], device: str = "auto", names: Sequence[str] = (), limits: Limits | None = None
    ) -> None:
        if names and len(names) != len(sets):
            raise UsageError(
                f"--backbone is given {len(names)} times: give it once for each of {len(sets)} feature sets"
            )
        self._sets, self._device, self._names = list(sets), device, list(names)
        self.limits = limits or Limits()
        self._lock = threading.Lock()

    def features(
        self, path: str | Path, start_s: float | None = None, end_s: float | None = None
    ) -> NDArray[np.float32]:
        """Compute the features of a file, or of seconds of a video: (T, D).

        A picture is one step. Of a damaged file the steps that can be decoded are taken, as by an extraction. Safe from
        several threads; they wait for each other.

        Raises
        ------
        UsageError
            No file; one that cannot be decoded, or is too long; an encoder that cannot be loaded, or is not known.
        """
        if not Path(path).is_file():
            raise UsageError(f"query: {path}: no such file; put a text that looks like a file in double quotes")
        with self._lock:
            found = [coder.features(Path(path), start_s, end_s, self.limits) for coder in self._coders]
        grid = found[0][1]
        return np.concatenate([resample(values, times, grid) for values, times in found], axis=1).astype(np.float32)

    @cached_property
    def _coders(self) -> list[_Coder]:
        from supportset.extract.pipeline.forward import pick_device
        from supportset.extract.recheck.recorded import load_recorded_backbone

        device = pick_device(self._device)
        coders = []
        for number, feature_set in enumerate(self._sets):
            try:
                backbone = load_recorded_backbone(feature_set, self._names[number] if self._names else None)
            except UsageError as error:
                raise UsageError(
                    f"query: an image or video needs the visual encoder of the features: {error}"
                ) from None
            backbone.to(device)
            coders.append(_Coder(feature_set, backbone, self.limits))
        return coders


class _Coder:
    """Features of files by the recipe of one feature set."""

    def __init__(self, feature_set: FeatureSet, backbone: Backbone, limits: Limits) -> None:
        from supportset.extract.pipeline.forward import Forward
        from supportset.extract.pipeline.recipe import fit_sampling
        from supportset.extract.recheck.recorded import recorded_sampling
        from supportset.extract.workers.decode_worker import Setup

        recipe = feature_set.card.recipe
        transform, sampling = backbone.frame_transform(), fit_sampling(recorded_sampling(recipe), backbone)
        shape = (sampling.window, *transform(np.zeros((48, 64, 3), np.uint8)).shape)
        self._setup = Setup(
            sampling, transform, shape, 2 * _STEPS, cpu_seconds=limits.cpu_seconds, memory=limits.memory
        )
        self._forward, self._vectors, self._dtype = Forward(backbone, _STEPS), backbone.vectors, recipe.dtype
        self._silent_s = limits.silent_s
        self._pool: DecodePool | None = None

    def features(
        self, path: Path, start_s: float | None, end_s: float | None, limits: Limits
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Features (T, D), rounded as the stored ones, and times (T, 2)."""
        from supportset.extract.workers.decode_worker import Job
        from supportset.extract.workers.pool import StepFrames

        values: list[NDArray[np.float32]] = []
        times: list[tuple[float, float]] = []
        held: list[NDArray[np.uint8]] = []
        until = time.monotonic() + limits.seconds
        job, done = Job(0, str(path.absolute()), start_s, end_s), False
        try:
            for event in self._open_pool().run(iter([job])):
                if time.monotonic() > until:
                    raise UsageError(f"query: {path}: takes longer than {limits.seconds:g} s: take a part of it")
                if isinstance(event, StepFrames):
                    if len(times) >= limits.steps * self._vectors:
                        raise UsageError(
                            f"query: {path}: has more than {limits.steps:,} steps: name a part of it, as @10-20"
                        )
                    held.append(event.frames.copy())
                    times += [(event.start_s, event.end_s)] * self._vectors
                    if len(held) == _STEPS:
                        values.append(self._run(held))
                elif event.outcome.status not in (OK, DAMAGED) or not times:
                    raise UsageError(f"query: {path}: cannot be decoded: {event.outcome}")
            done = True
        finally:
            if not done:  # the worker may hold steps of this file
                self._close_pool()
        if held:
            values.append(self._run(held))
        return np.concatenate(values), np.asarray(times, np.float64)

    def _run(self, held: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        import torch

        found = self._forward(torch.from_numpy(np.stack(held))).float().cpu().numpy()
        held.clear()
        return np.asarray(found.astype(self._dtype), np.float32)

    def _open_pool(self) -> DecodePool:
        from supportset.extract.workers.pool import DecodePool

        if self._pool is None:
            self._pool = DecodePool(self._setup, 1, self._silent_s)
            weakref.finalize(self, self._pool.close)
        return self._pool

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
