"""What the processes of the tests do: steps on shares of batches, trainings that are stopped, fail and go on.

They are forked from a server that has imported this file, so that a launch costs no imports. Each leaves what it found
in a file.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from supportset.store.errors import SupportsetError
from supportset.train.config import Config
from supportset.train.data.source import open_run_data
from supportset.train.data.training_data import TrainingData
from supportset.train.loop.preparation import make_bank, make_loader, number_sources, on_device
from supportset.train.loop.training import train
from supportset.train.model.batch import Batch
from supportset.train.model.model import SupportSetModel
from supportset.train.model.objective import Losses
from supportset.train.model.ranks import gather, sum_gradients, total, totals
from supportset.train.model.sequence_head import MaskedBatchNorm
from tests.train.small_store import config

NUMBER = 3
SIZES = (8, 7, 2, 5)  # captions of the batches: uneven shares, and one process without any

GRU = {"encoder": "scratch", "head": "gru", "norm": "batch", "dropout": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "none": {"support": {"captioning": "none"}},
    "identity": {"support": {"captioning": "identity"}},
    "full, batch norm": {"support": {"captioning": "full"}, "video": {"norm": "batch"}, "text": GRU},
    "hybrid, source videos, bank": {"support": {"captioning": "hybrid", "mask_sources": True, "bank": 12}},
    "cross, bank, batch norm": {
        "support": {"captioning": "cross", "bank": "all", "max_age": 2},
        "video": {"norm": "batch"},
    },
    "cross, in parts": {"optim": {"micro_batches": 3}},
    "cross, mean, infonce": {
        "video": {"aggregation": "mean"},
        "loss": {"contrastive": "infonce", "intra": True},
        "text": {"encoder": "scratch", "head": "mean"},
    },
    "full, summed": {"support": {"captioning": "full"}, "loss": {"negatives": "summed", "intra": True}},
    "none, from an encoder pair": {
        "dim": 20,
        "data": {"features": ["hf-pair"]},
        "video": {"init": "identity"},
        "text": {"encoder": "tower", "name": "", "head": "none"},
        "support": {"captioning": "none"},
        "loss": {"contrastive": "infonce", "temperature": "tower"},
    },
    "cross, bf16": {"optim": {"precision": "bf16"}},
}


def setting(**sections: Any) -> Config:
    """The small model without dropout; the sections of a case are merged into it."""
    quiet = {name: {"dropout": 0.0, **sections.get(name, {})} for name in ("video", "text", "decoder")}
    optim = {"batch_size": 8, "checkpoint_every": 3, **sections.get("optim", {})}
    return config(**{**sections, **quiet, "optim": optim})


def some_batches(loader: TrainingData) -> Iterator[Batch]:
    """Batches of several captions a clip, the third of which is too small for three processes."""
    by_clip = np.argsort(loader.clip_rows, kind="stable")  # two captions of a clip stand side by side
    first = 0
    for size in SIZES:
        rows = by_clip[first : first + size] if size > 2 else by_clip[[first, first + 2]]
        first += size
        yield loader.batch(np.random.default_rng(size).permutation(rows))


def steps(root: Path, name: str, rank: int, number: int) -> dict[str, Any]:
    """Some steps of a case in float64, as `the loop` makes them: what was computed, and what was learned."""
    each = setting(**CASES[name])
    data = open_run_data(each, root)
    torch.manual_seed(0)
    texts = [caption.text for caption in data.train.captions]
    model = SupportSetModel.build(each, data.features.dim, texts, visual=data.visual).double()
    mine: Any = SimpleNamespace(rank=rank, number=number, here=number)
    loader = make_loader(each, data, model, texts, ranks=mine)
    bank = make_bank(each, loader, model, torch.device("cpu"))
    if bank is not None:
        bank.embedding, bank.sequence = bank.embedding.double(), bank.sequence.double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found: dict[str, Any] = {"losses": [], "norms": [], "stats": []}
    half = torch.autocast("cpu", torch.bfloat16) if each.optim.precision == "bf16" else nullcontext()
    for step, batch in enumerate(some_batches(loader)):
        batch = on_device(batch, torch.device("cpu"), number_sources(each, data))
        batch.features = batch.features.double()
        if number > 1:
            assert batch.shard is not None
            assert len(batch.features) == max(1, batch.shard.clips[rank]) < len(batch.clip_ids)
            assert len(batch.text_ids) == max(1, batch.shard.captions[rank]) < len(batch.caption_ids)
        with half:
            losses = model(batch, bank=bank, step=step)
        losses.total.backward()
        if number > 1:
            sum_gradients(model.parameters())
        found["norms"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0))
        optimizer.step()
        optimizer.zero_grad()
        if bank is not None:
            bank.add(batch.clip_ids, losses.codes, step, batch.sources)
        found["losses"].append(torch.stack([losses.total, losses.contrastive, losses.captioning]).detach())
        found["stats"].append({key: float(value) for key, value in losses.stats.items()})
    found["model"] = model.state_dict()
    found["bank"] = bank.state_dict() if bank is not None else {}
    assert all(module.reduce is None for module in model.modules() if isinstance(module, MaskedBatchNorm))
    return found


# ---- what runs in the other processes ----


def in_process(task: Callable[[Path, int], None], folder: Path, rank: int, number: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(number), LOCAL_WORLD_SIZE=str(number))
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.stderr = open(folder / f"said-{task.__name__}-{rank}", "w")  # noqa: SIM115 (the process ends with it)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting-{task.__name__}", rank=rank, world_size=number
    )
    task(folder, rank)


def launch(task: Callable[[Path, int], None], folder: Path, number: int) -> None:
    """Run a task in several processes; whatever ends one of them, all must have ended soon after."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=in_process, args=(task, folder, rank, number)) for rank in range(number)]
    for process in processes:
        process.start()
    until = time.monotonic() + 400
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    said = "\n".join(path.read_text() for path in sorted(folder.glob(f"said-{task.__name__}-*")))
    assert not hanging, said
    assert all(process.exitcode == 0 for process in processes), said


def how_it_ended(do: Callable[[], Any]) -> tuple[str, int, str]:
    """Kind, exit code and words of what a call ends with."""
    try:
        do()
    except SupportsetError as error:
        return type(error).__name__, error.exit_code, str(error)
    except SystemExit as error:
        return "SystemExit", int(error.code or 0), ""
    return "", 0, ""


def trainings(folder: Path, rank: int) -> None:
    root, found = folder / "store", {}
    for name in CASES:
        found[name] = steps(root, name, rank, NUMBER)
    found["primitives"] = primitives(rank)

    found["whole"] = train(LONG, root, folder / "whole", device="cpu").main
    found["seed"] = torch.initial_seed()
    found["used"] = how_it_ended(lambda: train(LONG, root, folder / "whole", device="cpu"))
    original = TrainingData.batches
    if rank == 1:
        TrainingData.batches = at_batch(5, lambda: os.kill(os.getpid(), signal.SIGTERM))  # type: ignore[method-assign]
    found["stopped"] = how_it_ended(lambda: train(LONG, root, folder / "parts", device="cpu"))
    TrainingData.batches = original  # type: ignore[method-assign]
    torch.manual_seed(99 + rank)  # nothing outside the checkpoint may matter
    found["resumed"] = how_it_ended(lambda: train(LONG, root, folder / "parts", resume=True, device="cpu"))

    SupportSetModel.forward = not_finite(rank == 1)  # type: ignore[method-assign]
    found["not finite"] = how_it_ended(lambda: train(LONG, root, folder / "not-finite", device="cpu"))
    torch.save(found, folder / f"found-{rank}.pt")


def one_fails(folder: Path, rank: int) -> None:
    def fail() -> None:
        raise SupportsetError("the disk of process 1 is gone")

    if rank == 1:
        TrainingData.batches = at_batch(5, fail)  # type: ignore[method-assign]
    ended = how_it_ended(lambda: train(LONG, folder / "store", folder / "failed", device="cpu"))
    (folder / f"ended-{rank}.json").write_text(json.dumps(ended))


LONG = config(
    video={"norm": "batch"},
    support={"bank": 40, "mask_sources": True},
    optim={"epochs": 1, "batch_size": 29, "log_every": 1, "schedule": "cosine"},
)


def primitives(rank: int) -> dict[str, torch.Tensor]:
    """Gradients of rows and sums, each process with a loss of its own; one has no row."""
    rows = (torch.arange(4.0).reshape(2, 2) + 10 * rank).requires_grad_()
    gathered = gather(rows, (2, 0, 1), rank)
    ((rank + 1) * gathered * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()
    value = torch.tensor(float(rank + 1), requires_grad=True)
    summed = total(value)
    ((rank + 1) * summed**2).backward()
    counts = totals(torch.tensor(rank), torch.tensor(2 * rank))
    return {
        "gathered": gathered.detach(),
        "rows": rows.grad,
        "total": summed.detach(),
        "value": value.grad,
        "totals": torch.stack(counts),
    }


def at_batch(number: int, do: Callable[[], None]) -> Callable[..., Iterator[Batch]]:
    """TrainingData.batches that does something before its batch ``number``."""
    original = TrainingData.batches

    def batches(self: TrainingData, epoch: int, start: int = 0) -> Iterator[Batch]:
        for count, batch in enumerate(original(self, epoch, start), 1):
            if count == number:
                do()
            yield batch

    return batches


def not_finite(here: bool) -> Callable[..., Losses]:
    """SupportSetModel.forward whose third share has features that are no numbers, in one process alone."""
    original, calls = SupportSetModel.forward, iter(range(100))

    def forward(self: SupportSetModel, batch: Batch, **rest: Any) -> Losses:
        if next(calls) == 2 and here:
            batch.features = batch.features * torch.nan
        return original(self, batch, **rest)

    return forward
