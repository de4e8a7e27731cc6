"""One batch over several processes ("ranks"): each computes its shard of it, and all see the whole.

Each process computes some rows of a batch. `gather` makes them the rows of the whole batch in every process; gradients
that processes send back to a row are added up in the process that computed it. So each process descends on its part of
the loss, and the sum of all parameters' gradients is that of one process with the whole batch.

Every process must reach the same exchanges in the same order. That holds because all run the same code on shards of
one batch, and a process without a row computes another's that counts nothing (`RankShard`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from supportset.store.errors import SupportsetError
from supportset.train.config import Config, LossConfig
from supportset.train.model.batch import RankShard
from supportset.train.model.memory_bank import Entries
from supportset.train.model.objective import (
    CaptionSums,
    Decode,
    Losses,
    caption_stats,
    caption_sums,
    contrastive_part,
)
from supportset.train.model.sequence_head import MaskedBatchNorm
from supportset.train.model.video_encoder import VideoCodes

_BUCKET = 64 << 20  # bytes of gradients that are summed at once


class ProcessLost(SupportsetError):  # noqa: N818 - named for what happened
    """Another process of the training is gone, or cannot be reached."""


def objective_over_ranks(
    config: Config,
    decode: Decode | None,
    c_t: Tensor,
    video: VideoCodes,
    caption_clip: Tensor,
    labels: Tensor | None,
    loss: LossConfig | None = None,
    *,
    shard: RankShard,
    may_support: Tensor | None = None,
    entries: Entries | None = None,
) -> Losses:
    """Compute `objective` with the other processes, each of which decodes the captions of its shard.

    Parameters are those of `objective`; ``labels`` are the shard's. The values are those of the whole batch in every
    process, and the gradients those of the process's part: summed over the processes they are the whole batch's.
    """
    loss = loss or config.loss
    l_con, stats = contrastive_part(loss, c_t, video.embedding, caption_clip)  # the same in all processes
    l_con = _with_gradient_of(l_con, l_con / len(shard.captions))
    if decode is None:
        return Losses(l_con, l_con, torch.zeros_like(l_con), stats)
    rows, counted = shard.caption_rows, float(shard.captions[shard.rank] > 0)
    mine = caption_sums(config.support, decode, c_t[rows], video, caption_clip[rows], labels, may_support, entries)
    mine = CaptionSums(*(each * counted for each in mine))
    sums = CaptionSums(*totals(*mine))
    l_cap = _with_gradient_of(sums.mean(sums.loss), sums.mean(mine.loss))
    return Losses(l_con + loss.caption_weight * l_cap, l_con, l_cap, stats | caption_stats(sums, entries))


def gather_codes(video: VideoCodes, c_t: Tensor, shard: RankShard, positions: int | None) -> tuple[VideoCodes, Tensor]:
    """Return the codes and embeddings of the whole batch.

    Parameters
    ----------
    video, c_t : VideoCodes, Tensor
        Of this process's shard.
    shard : RankShard
        The rows that each process computes.
    positions : int, optional
        M of the whole batch. None: nothing reads the sequences, and they stay the shard's.
    """
    rank = shard.rank
    c_t, embedding = gather(c_t, shard.captions, rank), gather(video.embedding, shard.clips, rank)
    sequence, mask = video.sequence, video.mask
    if positions is not None:
        missing = positions - mask.shape[1]
        sequence = gather(F.pad(sequence, (0, 0, 0, missing)), shard.clips, rank)
        mask = gather(F.pad(mask, (0, missing)).to(torch.uint8), shard.clips, rank).bool()
    return VideoCodes(embedding, sequence, mask), c_t


def gather(rows: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
    """Return the rows of all processes, rank by rank.

    Parameters
    ----------
    rows : Tensor
        (n, ...) of this process; only the first ``sizes[rank]`` are taken.
    sizes : sequence of int
        Rows of each process.
    rank : int
        Of this process.

    Returns
    -------
    Tensor
        (sum of sizes, ...), the same in every process. Its gradient is the sum of those that the processes have for it.
    """
    gathered: Tensor = _Gather.apply(rows, tuple(sizes), rank)
    return gathered


def total(values: Tensor) -> Tensor:
    """Sum a tensor over the processes. Its gradient, too, is the sum of those that the processes have for it."""
    summed: Tensor = _Total.apply(values)
    return summed


def totals(*scalars: Tensor) -> tuple[Tensor, ...]:
    """Sum scalars over the processes, without gradients, in one exchange."""
    dtype = torch.promote_types(scalars[0].dtype, torch.float32)
    return _summed(torch.stack([scalar.detach().to(dtype) for scalar in scalars])).unbind()


@contextmanager
def shared_statistics(encoder: nn.Module, counted: bool) -> Iterator[None]:
    """Have an encoder's batch normalisation take the statistics of all processes.

    Parameters
    ----------
    encoder : nn.Module
        Contains `MaskedBatchNorm`; it computes this process's shard inside the block.
    counted : bool
        False where the process has no row and computes another's: its statistics must not count.
    """
    reduce: Callable[[Tensor], Tensor] = total if counted else _total_without_mine
    with ExitStack() as stack:
        for module in encoder.modules():
            if isinstance(module, MaskedBatchNorm):
                module.reduce = reduce
                stack.callback(setattr, module, "reduce", None)
        yield


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their sums over the processes; absent gradients stay absent."""
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
        If it fails, as it does as soon as one of the processes has ended.
    """
    try:
        return operation(*args, **options)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise ProcessLost(
            f"another process of this training has ended or cannot be reached ({reason}); its message or the log "
            "of its machine says why. Resume with --resume"
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


def _with_gradient_of(value: Tensor, part: Tensor) -> Tensor:
    """Return the whole batch's value, to be logged, with the gradient of this process's part."""
    return part + (value - part).detach()


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
