"""Rows, sums and gradients across the processes that compute one batch together.

Each process computes some rows of a batch. Here they become the rows of the whole batch in every process, and what the
processes send back to a row on the way of the gradients is added up in the process that computed it. So each process
descends on its share of the loss, and the sum of all parameters' gradients is that of one process with the whole batch.

Every process must come to the same exchanges in the same order. That holds because all run the same code on shares of
one batch, and a process without a row of its own computes another's that counts nothing (`Share`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from supportset.store.errors import SupportsetError
from supportset.train.model.sequence_head import MaskedBatchNorm

_BUCKET = 64 << 20  # bytes of gradients that are summed at once


class ProcessLost(SupportsetError):  # noqa: N818 - named for what it tells
    """Another process of the training is gone, or cannot be reached."""


def gather(rows: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
    """Rows of all processes, in the order of these.

    Parameters
    ----------
    rows : (n, ...) of this process; only the first ``sizes[rank]`` are taken
    sizes : rows of each process
    rank : of this process

    Returns
    -------
    (sum of sizes, ...) Tensor
        The same in every process. Its gradient is the sum of those that the processes have for it.
    """
    gathered: Tensor = _Gather.apply(rows, tuple(sizes), rank)
    return gathered


def gather_mask(mask: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
    """`gather` for bool tensors."""
    return gather(mask.to(torch.uint8), sizes, rank).bool()


def total(values: Tensor) -> Tensor:
    """Sum of a tensor over the processes. Its gradient, too, is the sum of those that the processes have for it."""
    summed: Tensor = _Total.apply(values)
    return summed


def totals(*scalars: Tensor) -> tuple[Tensor, ...]:
    """Sums of scalars over the processes, without gradients, in one exchange."""
    dtype = torch.promote_types(scalars[0].dtype, torch.float32)
    return _summed(torch.stack([scalar.detach().to(dtype) for scalar in scalars])).unbind()


def share_of(value: Tensor, share: Tensor) -> Tensor:
    """A loss of the whole batch, to be logged, whose gradient is that of this process's share of it."""
    return share + (value - share).detach()


@contextmanager
def shared_statistics(encoder: nn.Module, counted: bool) -> Iterator[None]:
    """Have an encoder's batch normalisation take the statistics of all processes.

    Parameters
    ----------
    encoder : whose `MaskedBatchNorm` are meant; it computes this process's share inside
    counted : false where a row only stands in, and nothing of it may be seen
    """
    reduce: Callable[[Tensor], Tensor] = total if counted else _total_without_mine
    with ExitStack() as stack:
        for module in encoder.modules():
            if isinstance(module, MaskedBatchNorm):
                module.reduce = reduce
                stack.callback(setattr, module, "reduce", None)
        yield


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their sums over the processes; those that no process has stay away."""
    bucket: list[Tensor] = []
    for gradient in (each.grad for each in parameters if each.grad is not None):
        if bucket and (gradient.dtype != bucket[0].dtype or sum(each.nbytes for each in bucket) >= _BUCKET):
            _sum_in_place(bucket)
            bucket = []
        bucket.append(gradient)
    if bucket:
        _sum_in_place(bucket)


def exchange(operation: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call something of ``torch.distributed``.

    Raises
    ------
    ProcessLost
        It failed, as it does as soon as one of the processes has ended.
    """
    try:
        return operation(*args, **options)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise ProcessLost(
            f"another process of this training has ended or cannot be reached ({reason}); its own message or the log "
            "of its machine says why. Go on with --resume"
        ) from error


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, sizes: tuple[int, ...], rank: int) -> Tensor:
        context.shape, context.mine = rows.shape, sizes[rank]
        context.first = sum(sizes[:rank])
        room = rows.new_zeros(max(sizes), *rows.shape[1:])  # all processes must send equally much
        room[: sizes[rank]] = rows[: sizes[rank]]
        parts = [torch.empty_like(room) for _ in sizes]
        exchange(dist.all_gather, parts, room)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        summed = _summed(gradient)[context.first : context.first + context.mine]
        mine = gradient.new_zeros(context.shape)
        mine[: context.mine] = summed
        return mine, None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _total_without_mine(values: Tensor) -> Tensor:
    return total(values * 0.0)


def _summed(values: Tensor) -> Tensor:
    """Sum over the processes, half precision in float32; the tensor given is left as it is."""
    wide = torch.promote_types(values.dtype, torch.float32)
    summed = values.detach().to(wide, copy=True, memory_format=torch.contiguous_format)
    exchange(dist.all_reduce, summed)
    return summed.to(values.dtype)


def _sum_in_place(gradients: list[Tensor]) -> None:
    flat = torch.cat([each.flatten() for each in gradients])
    exchange(dist.all_reduce, flat)
    for gradient, part in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
