"""The device a run computes on, and its precision."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from store.errors import UsageError
from train.config import OptimConfig


def check_device(device: str) -> None:
    """Refuse a device that PyTorch does not see here, or that is none.

    Raises
    ------
    UsageError
        Names the device and those that can be given.
    """
    kind, colon, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and number.isdecimal()):
        raise UsageError(f"--device {device!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: PyTorch sees no CUDA device here; use --device cpu or auto")
    if colon and int(number) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: PyTorch sees no such device here; use --device cpu or auto")


def choose_device(device: str) -> torch.device:
    """The device that ``auto`` or a name stands for."""
    check_device(device)
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def open_accelerator(optim: OptimConfig, device: str) -> Accelerator:
    """Accelerate on one device, with the precision of the configuration."""
    check_device(device)
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device).index or 0)
    AcceleratorState._reset_state(reset_partial_state=True)  # else a process could train at one precision only
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(optim.precision, optim.precision), cpu=device == "cpu")
    if accelerator.num_processes > 1:
        raise UsageError(
            f"training runs in one process, {accelerator.num_processes} were launched: start it without a launcher"
        )
    if optim.precision == "fp16" and accelerator.device.type != "cuda":
        raise UsageError(
            f"optim.precision = 'fp16' needs a CUDA device, this is {accelerator.device.type}: use bf16 or fp32"
        )
    return accelerator
