"""Extraction processes on a Ray cluster: one actor a GPU hosts the process that one machine would run.

The actor only forwards messages, so a crash of the process differs from the loss of its machine: a clip may cause the
first, never the second.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from supportset.extract.processes.local import Gone, LocalProcesses
from supportset.extract.processes.worker_process import Answer, Message, Order
from supportset.store.errors import SupportsetError, UsageError

_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
LOCAL = "local"


def check_ray_options(device: str, processes: int | None) -> None:
    """Check the options that need no cluster to check.

    Raises
    ------
    UsageError
        Ray is not installed, the device is one of this machine, or ``processes`` is below 1.
    """
    _ray()
    if device not in ("auto", "cuda", "cpu"):
        raise UsageError(f"device {device!r}: on a Ray cluster, Ray chooses the GPUs: give auto, cuda or cpu")
    if processes is not None and processes < 1:
        raise UsageError(f"processes={processes} should be above 0")


class ProcessHost:
    """The actor: one extraction process and the pipe to it.

    Parameters
    ----------
    order : Order
    """

    def __init__(self, order: Order) -> None:
        self._processes = LocalProcesses(order)
        self._process = self._processes.start(order.settings.execution.device)

    def exchange(self, answers: Sequence[Answer], interrupt: bool) -> tuple[str, list[Message | Gone]]:
        """Forward answers; return the machine's name and the process's messages, within half a second."""
        for answer in answers:
            self._process.send(answer)
        if interrupt:
            self._process.interrupt()
        return socket.gethostname(), [message for _, message in self._processes.events(_POLL_SECONDS)]


@dataclass(eq=False)
class RayProcess:
    """A process of the cluster, as :class:`supportset.extract.processes.local.WorkerProcess`."""

    actor: Any
    name: str
    heard: bool = False
    pending: Any = None
    answers: list[Answer] = field(default_factory=list)
    stopping: bool = False

    def send(self, answer: Answer) -> None:
        """Answer a question, with the next exchange."""
        self.answers.append(answer)

    def interrupt(self) -> None:
        """Have it seal complete clips and end; one that has not started yet is killed."""
        self.stopping = True
        if not self.heard:
            _ray().kill(self.actor)


class RayProcesses:
    """Extraction processes on a Ray cluster.

    Parameters
    ----------
    order : Order
        Device and cores in its settings are replaced by what the cluster gives.
    address : str
        Of the cluster: ``auto``, ``host:port``, ``ray://host:port``; or ``local`` for one on this machine that ends
        with the run. An existing connection of the program is used.
    processes : int, optional
        Default: as many as the cluster has GPUs; without GPUs, one a machine.

    Attributes
    ----------
    places : list of str
        Names of the processes.
    gpus : int
        GPUs of each process.
    cores : int
        Cores of each process.

    Raises
    ------
    UsageError
        Ray is not installed, or the device is one of this machine.
    SupportsetError
        There is no cluster at the address.
    """

    def __init__(self, order: Order, address: str, processes: int | None = None) -> None:
        kind = order.settings.execution.device
        check_ray_options(kind, processes)
        self._own = _connect(address)
        self._running: list[RayProcess] = []
        try:
            share = _share(kind, processes, address)
        except UsageError:
            self.close()
            raise
        self.places = [f"worker {number + 1}" for number in range(share.processes)]
        self.gpus, self.cores = share.gpus, share.cores
        self._order = order.with_settings(device="cuda" if share.gpus else "cpu", cores=share.cores)

    def start(self, place: str) -> RayProcess:
        """Ask the cluster for a process; it starts when there is room."""
        remote = _ray().remote(ProcessHost)
        process = RayProcess(
            remote.options(num_gpus=self.gpus, num_cpus=self.cores, max_restarts=0).remote(self._order), place
        )
        self._running.append(process)
        return process

    def events(self, seconds: float) -> list[tuple[RayProcess, Message | Gone]]:
        """Return the messages received within so many seconds."""
        ray = _ray()
        for process in self._running:
            if process.pending is None:
                process.pending = process.actor.exchange.remote(process.answers, process.stopping)
                process.answers, process.stopping = [], False
        if not self._running:
            return []
        by_reference = {process.pending: process for process in self._running}
        ready, _ = ray.wait(list(by_reference), num_returns=1, timeout=seconds)
        ready, _ = ray.wait(list(by_reference), num_returns=len(by_reference), timeout=0) if ready else (ready, None)
        found: list[tuple[RayProcess, Message | Gone]] = []
        for process in [by_reference[reference] for reference in ready]:
            found += [(process, message) for message in self._receive(process)]
        return found

    def close(self) -> None:
        """Kill the processes that still run; stop a cluster that was started for this run."""
        for process in self._running:
            _ray().kill(process.actor)
        self._running = []
        if self._own:
            _ray().shutdown()

    def _receive(self, process: RayProcess) -> list[Message | Gone]:
        ray = _ray()
        reference, process.pending = process.pending, None
        messages: list[Message | Gone]
        try:
            host, messages = ray.get(reference)
        except ray.exceptions.RayError as error:
            messages = [Gone(f"was lost: {_first_line(error)}", suspect=False)]
        else:
            if not process.heard:
                process.heard, process.name = True, f"{process.name} on {host}"
        if any(isinstance(message, Gone) for message in messages):
            self._running.remove(process)
            ray.kill(process.actor)
        return messages


@dataclass(frozen=True)
class _Share:
    processes: int
    gpus: int
    cores: int


def _share(kind: str, processes: int | None, address: str) -> _Share:
    """Divide the GPUs and cores that the cluster has now among processes."""
    nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
    with_gpus = [(int(node["GPU"]), int(node.get("CPU", 1))) for node in nodes if node.get("GPU", 0) >= 1]
    if with_gpus and kind != "cpu":
        cores = min(cpus // gpus for gpus, cpus in with_gpus)
        return _Share(processes or sum(gpus for gpus, _ in with_gpus), 1, max(1, cores))
    if kind == "cuda":
        if processes is None:
            raise UsageError(f"Ray at {address!r} has no GPU now: --processes N waits for N of them")
        return _Share(processes, 1, 1)
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1] or [1]
    cores = min(min(cpus), max(1, sum(cpus) // (processes or len(cpus))))
    return _Share(processes or sum(count // cores for count in cpus), 0, cores)


def _connect(address: str) -> bool:
    """Connect to a cluster; return whether this run made the connection."""
    ray = _ray()
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # checked first: Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise SupportsetError(
            f"no Ray cluster at {address!r} ({_first_line(error)}): start one with `ray start --head`, "
            "give its address, or --ray local"
        ) from error
    return True


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError("--ray needs Ray: pip install '.[ray]'") from error
    return ray


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
