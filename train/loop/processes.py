"""The processes that train one model together: what one does for all, what all agree on, and how they end.

``torchrun`` and ``accelerate launch`` start them, one a device. Each runs the whole loop on its share of every batch;
the main one alone writes and tells.
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
from supportset.train.loop.checkpoint import Position
from supportset.train.model.ranks import exchange, sum_gradients

T = TypeVar("T")

_trainings = count()


class Processes:
    """One process among those that train together; or the only one, for which all of this costs nothing.

    Parameters
    ----------
    accelerator : Accelerate, opened in each of them

    Attributes
    ----------
    rank, number : of this process, from 0; how many there are
    main : whether it is the first, which alone writes files and tells how it goes
    here : how many there are on this machine
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
        """Whether it is so in any process."""
        if self.number == 1:
            return flag
        told = torch.tensor(int(flag))
        exchange(dist.all_reduce, told, dist.ReduceOp.MAX, group=self._group)
        return bool(told)

    def from_main(self, function: Callable[..., T], *args: Any) -> T:
        """What a function gives in the main process, where alone it is called; where it fails there, all end."""
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
        """The value of each process."""
        if self.number == 1:
            return [value]
        values: list[Any] = [None] * self.number
        exchange(dist.all_gather_object, values, value, group=self._group)
        return values

    def notes(self, position: Position) -> list[str]:
        """What people should know of a run that goes on from a position in these processes."""
        before = position.processes
        notes = [f"{self.number} processes, each with its share of every batch"] if self.number > 1 else []
        if position.step and before != self.number:
            notes.append(
                f"the checkpoint is of {before} process{'es' * (before > 1)}: the results differ by rounding, and "
                "where there is dropout by other random numbers"
            )
        return notes

    def join(self, model: torch.nn.Module, seed: int) -> None:
        """Give every process the main one's weights, and random numbers of its own."""
        if self.number == 1:
            return
        for tensor in model.state_dict().values():
            exchange(dist.broadcast, tensor, src=0)
        if not self.main:
            torch.manual_seed(seed + self.rank)

    def sum_gradients(self, model: torch.nn.Module) -> None:
        """Add up what each process's share of the loss gave."""
        if self.number > 1:
            sum_gradients(model.parameters())


@contextmanager
def training_processes(optim: OptimConfig, device: str) -> Iterator[Processes]:
    """Open this process's device and meet the others; whatever ends one of them ends all, and one tells.

    Raises
    ------
    UsageError
        A device that cannot be had.
    SystemExit
        In every process but the first to fail: that one's error tells all that there is to tell.
    """
    before = dist.is_available() and dist.is_initialized()
    with alike():
        accelerator = open_accelerator(optim, device)
    training = next(_trainings)
    processes = Processes(accelerator)
    try:
        yield processes
    except Exception as error:
        if processes.number == 1 or _first_to_fail(training, processes.rank):
            raise
        raise SystemExit(exit_code(error)) from None
    if processes.number > 1 and not before:
        dist.destroy_process_group()


@contextmanager
def alike() -> Iterator[None]:
    """For what fails alike in all processes of a machine before they have met: the first of these tells."""
    try:
        yield
    except SupportsetError as error:
        if local_rank() == 0:
            raise
        raise SystemExit(exit_code(error)) from None


def exit_code(error: Exception) -> int:
    """What a process ends with that an error ends."""
    return error.exit_code if isinstance(error, SupportsetError) else 1


def _first_to_fail(training: int, rank: int) -> bool:
    key, mine = f"supportset/failed/{training}", str(rank)
    try:
        return bool(dist.distributed_c10d._get_default_store().compare_set(key, "", mine) == mine.encode())
    except (RuntimeError, ValueError):  # whoever kept the store has ended first, and has told
        return False
