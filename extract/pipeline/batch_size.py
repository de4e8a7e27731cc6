"""How many steps one forward takes: a constant on a CPU, measured on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone

_CPU_STEPS = 8  # a batch whose activations stay in the processor's cache is faster than a larger one
_GPU_STEPS = 256
_GPU_FIRST, _GPU_MOST = 32, 4096
_HOST_BYTES = 512 * 2**20  # bytes of frames in one batch; memory holds several batches
_GAIN = 1.05  # gain that doubling must bring
_REPEATS = 3
_WORTH_CLIPS = 100  # a shorter run ends before the measurement pays off


def pick_batch_size(backbone: Backbone, clips: int) -> int:
    """Choose the steps of one forward for the device that the backbone is on.

    Parameters
    ----------
    backbone : Backbone
    clips : int
        Of the run.

    Returns
    -------
    int
        On a GPU the smallest power of two from 32 on whose double is less than 5 % faster, within its memory.
    """
    default = default_batch_size(backbone.device, backbone.window)
    if backbone.device.type != "cuda" or clips < _WORTH_CLIPS:
        return default
    transform = backbone.frame_transform()
    step = (transform.height, transform.width, 3)
    shape = step if backbone.window == 1 else (backbone.window, *step)
    most = max(1, min(_GPU_MOST // backbone.window, _HOST_BYTES // prod(shape)))

    def measure(steps: int) -> float:
        return _seconds(backbone, torch.zeros((steps, *shape), dtype=torch.uint8, device=backbone.device))

    try:
        return grow(measure, min(max(1, _GPU_FIRST // backbone.window), most), most) or default
    finally:
        torch.cuda.empty_cache()


def default_batch_size(device: torch.device, window: int) -> int:
    """Steps of one forward without a measurement; a window counts as its frames."""
    many = _CPU_STEPS if device.type == "cpu" else _GPU_STEPS
    return many if window == 1 else max(4, 2 * many // window)


def grow(measure: Callable[[int], float], first: int, most: int) -> int | None:
    """Double the batch while steps get faster and memory suffices; halve it if the first does not fit.

    Parameters
    ----------
    measure : callable
        Seconds of a forward of so many steps; raises ``torch.OutOfMemoryError`` where they do not fit.
    first, most : int
        Steps to start with, and the maximum.

    Returns
    -------
    int or None
        None: not even one step fits.
    """
    best, rate = _first_that_fits(measure, first)
    if best is None or best < first:
        return best
    while 2 * best <= most:
        try:
            faster = 2 * best / measure(2 * best)
        except torch.OutOfMemoryError:
            break
        if faster < _GAIN * rate:
            break
        best, rate = 2 * best, faster
    return best


def _first_that_fits(measure: Callable[[int], float], size: int) -> tuple[int | None, float]:
    while size:
        try:
            return size, size / measure(size)
        except torch.OutOfMemoryError:
            size //= 2
    return None, 0.0


def _seconds(backbone: Backbone, frames: torch.Tensor) -> float:
    """Median time of a forward; the first one, which chooses kernels, does not count."""
    times = []
    for _ in range(1 + _REPEATS):
        torch.cuda.synchronize(backbone.device)
        since = time.perf_counter()
        backbone.forward(frames)
        torch.cuda.synchronize(backbone.device)
        times.append(time.perf_counter() - since)
    return statistics.median(times[1:])
