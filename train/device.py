"""The device a run computes on, and its precision."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import torch

from supportset.store.errors import UsageError
from supportset.train.config import OptimConfig
from supportset.train.model.ranks import exchange

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    """Return the device of a name; ``auto`` prefers CUDA, then MPS."""
    check_device(device)
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def launched() -> tuple[int, int]:
    """Number of processes that a launcher started for one training: in all, and on this machine."""
    return int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_rank() -> int:
    """Rank of this process on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def open_accelerator(optim: OptimConfig, device: str) -> Accelerator:
    """Open Accelerate on this process's device, with the precision of the configuration.

    Processes that a launcher started are connected: over gloo on CPUs, over NCCL on CUDA devices, one device each. On a
    CPU without bf16 instructions, where bf16 is many times slower, the precision is fp32.

    Raises
    ------
    UsageError
        A device or a precision that is not available; more processes than CUDA devices.
    """
    from accelerate import Accelerator  # slow to import, and only training needs it
    from accelerate.state import AcceleratorState

    check_device(device)
    processes, here = launched()
    kind = choose_device(device).type
    if processes > 1:
        _check_launched(device, kind, here)
    elif device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device).index or 0)
    AcceleratorState._reset_state(reset_partial_state=True)  # else a process could train at one precision only
    on_cpu = device == "cpu" or (processes > 1 and kind == "cpu")  # or Accelerate does not connect the processes
    precision = "no" if optim.precision == "fp32" else optim.precision
    if precision == "bf16" and (on_cpu or kind == "cpu") and not cpu_computes_bf16():
        precision = "no"
    if processes > 1:
        accelerator: Accelerator = exchange(Accelerator, mixed_precision=precision, cpu=on_cpu)
    else:
        accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu)
    if optim.precision == "fp16" and accelerator.device.type != "cuda":
        raise UsageError(
            f"optim.precision = 'fp16' needs a CUDA device, this is {accelerator.device.type}: use bf16 or fp32"
        )
    return accelerator


def cpu_computes_bf16() -> bool:
    """Whether this CPU has instructions for bf16 (AVX512_BF16, AMX, or those of ARM)."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(check() for check in checks if check is not None)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _check_launched(device: str, kind: str, here: int) -> None:
    if ":" in device:
        raise UsageError(f"--device {device} is one device, and {here} processes were launched here: use cuda or auto")
    if kind == "mps":
        raise UsageError(f"{here} processes were launched, and mps is one device: start it without a launcher")
    if kind == "cuda" and here > torch.cuda.device_count():
        raise UsageError(
            f"{here} processes were launched on a machine with {torch.cuda.device_count()} CUDA devices: launch one a "
            "device, or use --device cpu"
        )
