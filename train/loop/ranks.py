"""The processes that train one model together, and what they agree on.

``torchrun`` and ``accelerate launch`` start one process a device. Each runs the complete loop on its shard of every
batch. Only rank 0 writes files and reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator

from supportset.store.errors import SupportsetError
from supportset.train.config import OptimConfig
from supportset.train.device import launched, local_rank, open_accelerator
from supportset.train.model.ranks import exchange, sum_gradients

T = TypeVar("T")

_trainings = count()


class Ranks:
    """This process among those that train together. With one process every method is a plain call.

    Parameters
    ----------
    accelerator : Accelerator
        Opened in each process.

    Attributes
    ----------
    rank, number : int
        Rank of this process, from 0, and how many there are.
    main : bool
        Whether this is rank 0.
    here : int
        How many there are on this machine.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank, self.number = int(accelerator.process_index), int(accelerator.num_processes)
        self.main = self.rank == 0
        self.here = min(self.number, launched()[1])
        self._group: Any = None
        if self.number > 1 and accelerator.device.type != "cpu":
            self._group = exchange(dist.new_group, backend="gloo")  # agreeing must not wait for a device

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.number == 1:
            return flag
        flags = torch.tensor(int(flag))
        exchange(dist.all_reduce, flags, dist.ReduceOp.MAX, group=self._group)
        return bool(flags)

    def on_rank_zero(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in rank 0 only, and return its result in all; an error ends all."""
        if self.number == 1:
            return function(*args)
        answer: list[Any] = [None, None]
        failure: Exception | None = None
        if self.main:
            try:
                answer[0] = function(*args)
            except Exception as error:  # raised again below, once the others know
                failure, answer[1] = error, exit_code(error)
        exchange(dist.broadcast_object_list, answer, src=0, group=self._group)
        if failure is not None:
            raise failure
        if answer[1] is not None:
            raise SystemExit(answer[1])
        result: T = answer[0]
        return result

    def collect(self, value: T) -> list[T]:
        """Return the value of each rank."""
        if self.number == 1:
            return [value]
        values: list[Any] = [None] * self.number
        exchange(dist.all_gather_object, values, value, group=self._group)
        return values

    def notes(self, step: int, before: int) -> list[str]:
        """Lines for the user about the number of processes.

        Parameters
        ----------
        step : int
            Where the run starts; above 0 it resumes.
        before : int
            Number of processes that wrote the checkpoint.
        """
        notes = [f"{self.number} processes, each with its shard of every batch"] if self.number > 1 else []
        if step and before != self.number:
            notes.append(
                f"the checkpoint was written by {before} process{'es' * (before > 1)}: results differ by rounding, "
                "and with dropout by other random numbers"
            )
        return notes

    def join(self, model: torch.nn.Module, seed: int) -> None:
        """Copy the weights of rank 0 to all ranks, and seed each differently."""
        if self.number == 1:
            return
        for tensor in model.state_dict().values():
            exchange(dist.broadcast, tensor, src=0)
        if not self.main:
            torch.manual_seed(seed + self.rank)

    def sum_gradients(self, model: torch.nn.Module) -> None:
        """Sum the gradients of all ranks."""
        if self.number > 1:
            sum_gradients(model.parameters())


@contextmanager
def training_ranks(optim: OptimConfig, device: str) -> Iterator[Ranks]:
    """Open the device and connect to the other ranks. An error in one ends all, and one reports it.

    Raises
    ------
    UsageError
        The device is not available.
    SystemExit
        In every process but the first to fail.
    """
    before = dist.is_available() and dist.is_initialized()
    with one_report():
        accelerator = open_accelerator(optim, device)
    training = next(_trainings)
    ranks = Ranks(accelerator)
    try:
        yield ranks
    except Exception as error:
        if ranks.number == 1 or _first_to_fail(training, ranks.rank):
            raise
        raise SystemExit(exit_code(error)) from None
    if ranks.number > 1 and not before:
        dist.destroy_process_group()


@contextmanager
def one_report() -> Iterator[None]:
    """Let one process of a machine report an error that all of them have before they are connected."""
    try:
        yield
    except SupportsetError as error:
        if local_rank() == 0:
            raise
        raise SystemExit(exit_code(error)) from None


def exit_code(error: Exception) -> int:
    """Exit code of a process that ends with this error."""
    return error.exit_code if isinstance(error, SupportsetError) else 1


def _first_to_fail(training: int, rank: int) -> bool:
    key, mine = f"supportset/failed/{training}", str(rank)
    try:
        return bool(dist.distributed_c10d._get_default_store().compare_set(key, "", mine) == mine.encode())
    except (RuntimeError, ValueError):  # the process that held the store failed first and has reported
        return False
