"""Devices of a run, and the cores of each extraction process."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from supportset._process import cores
from supportset.extract.pipeline.forward import pick_device
from supportset.store.errors import UsageError


def pick_devices(names: str, processes: int | None = None) -> list[str]:
    """Choose the device of each extraction process of this machine.

    Parameters
    ----------
    names : str
        ``auto`` (all CUDA devices; without one ``mps`` or ``cpu``), ``cuda`` (all), ``cpu``, ``mps``, or a list such
        as ``cuda:0,cuda:1``.
    processes : int, optional
        Default: one a device. More share the devices, fewer leave the last ones out.

    Returns
    -------
    list of str
        One device name a process.

    Raises
    ------
    UsageError
        An unknown name, a device that the machine does not have, devices of several kinds, or ``processes`` below 1.
    """
    if processes is not None and processes < 1:
        raise UsageError(f"processes={processes} should be above 0")
    found: dict[str, None] = {}
    for name in names.split(","):
        device = pick_device(name.strip())
        if device.type == "cuda" and device.index is None:
            found |= dict.fromkeys(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        else:
            found[str(device)] = None
    devices = list(found)
    if len({name.partition(":")[0] for name in devices}) > 1:
        raise UsageError(f"device {names!r}: a run uses devices of one kind, such as cuda:0,cuda:1")
    return [devices[number % len(devices)] for number in range(processes or len(devices))]


def share_of_cores(processes: Sequence[object]) -> int:
    """Divide the cores that we may use among processes."""
    return max(1, cores() // max(1, len(processes)))
