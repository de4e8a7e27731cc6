"""The forward pass: device, compilation, batches, and recovery when device memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from supportset.store.errors import SupportsetError, UsageError

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone


def pick_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device of this machine.

    Raises
    ------
    UsageError
        If the name is none of these, or the machine does not have the device.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if kind == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices; use cpu or auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps': PyTorch sees no such device; use cpu or auto")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Name the kind of device for the card: ``cpu``, or a GPU's model."""
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def compile_for(backbone: Backbone, steps: int, tell: Callable[[str], None]) -> None:
    """Compile a backbone's forward for batches of so many steps; on failure report it and leave the model as it is."""
    transform = backbone.frame_transform()
    step = (transform.height, transform.width, 3)
    shape = (steps, *step) if backbone.window == 1 else (steps, backbone.window, *step)
    since = time.monotonic()
    backbone.compile()
    try:
        backbone.forward(torch.zeros(shape, dtype=torch.uint8))
    except Exception as error:  # compilers fail in many ways; an error of the model itself appears without them, too
        backbone.compile(False)
        reason = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
        tell(f"extract: the model cannot be compiled ({reason}): the run continues without")
    else:
        tell(f"extract: the model is compiled for batches of {steps:,}, in {time.monotonic() - since:.0f} s")


class Forward:
    """Runs a backbone on batches of steps; splits them after the device ran out of memory.

    Parameters
    ----------
    backbone : Backbone
    batch_size : int
        Steps of a full batch. A compiled backbone gets batches of this size only, padded where they are smaller.
    """

    def __init__(self, backbone: Backbone, batch_size: int) -> None:
        self._backbone = backbone
        self._size = batch_size

    def __call__(self, frames: Tensor) -> Tensor:
        """Compute features; on a GPU the result may still be pending.

        Parameters
        ----------
        frames : Tensor
            (N, window, h, w, 3) uint8.

        Returns
        -------
        (N x vectors, dim) float32
            The vectors of each step side by side. On the backbone's device.

        Raises
        ------
        SupportsetError
            If not even one step fits into the device's memory.
        """
        steps = frames.squeeze(1) if self._backbone.window == 1 else frames
        if not len(steps):
            return torch.empty((0, self._backbone.dim))
        while True:
            try:
                parts = [self._part(part).flatten(0, -2) for part in steps.split(self._size)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError as error:
                tried = self._size if self._backbone.compiled else min(self._size, len(steps))
                if tried == 1:
                    raise SupportsetError(
                        f"{self._backbone.name}: one step does not fit into the device's memory; "
                        "free some, use another --device or a smaller --backbone"
                    ) from error
            self._size = tried // 2  # outside of `except`, so that the failed tensors are freed
            torch.cuda.empty_cache()

    def _part(self, steps: Tensor) -> Tensor:
        count = len(steps)
        if not self._backbone.compiled or count == self._size:
            return self._backbone.forward(steps)
        filled = torch.cat([steps, steps.new_zeros((self._size - count, *steps.shape[1:]))])
        return self._backbone.forward(filled)[:count]
