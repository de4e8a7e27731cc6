"""Several processes on shares of a batch train as one process does on the whole; they stop, fail and go on together.

The processes are forked from a server that has imported this file, so that a launch costs no imports: most of what is
tested happens in one launch of three, which leaves its results in files.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.numpy import load_file

from store.errors import SupportsetError, UsageError
from tests.train.small_store import config, plant
from train.ablation.study import run_study
from train.batch import Batch, Share
from train.config import Config, OptimConfig
from train.data import TrainingData
from train.device import open_accelerator
from train.gather import gather, sum_gradients, total, totals
from train.loop import train
from train.model import SupportSetModel
from train.objective import Losses
from train.preparation import make_bank, make_loader, number_sources, on_device
from train.processes import Processes
from train.run_folder import to_toml
from train.sequence_head import MaskedBatchNorm
from train.source import open_run_data

ROOT = Path(__file__).resolve().parents[2]
NUMBER = 3
SIZES = (8, 7, 2, 5)  # captions of the batches: uneven shares, and one process without any
EXACT = {"rtol": 0.0, "atol": 1e-6}

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
    "cross, in parts": {"optim": {"accumulate": 3}},
    "cross, mean, infonce": {
        "video": {"aggregation": "mean"},
        "loss": {"contrastive": "infonce", "intra": True},
        "text": {"encoder": "scratch", "head": "mean"},
    },
    "full, summed": {"support": {"captioning": "full"}, "loss": {"negatives": "summed", "intra": True}},
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
    """Some steps of a case in float64, as `train.loop` makes them: what was computed, and what was learned."""
    each = setting(**CASES[name])
    data = open_run_data(each, root)
    torch.manual_seed(0)
    texts = [caption.text for caption in data.train.captions]
    model = SupportSetModel.build(each, data.features.dim, texts).double()
    mine: Any = SimpleNamespace(rank=rank, number=number, here=number)
    loader = make_loader(each, data, model, texts, processes=mine)
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
            assert batch.share is not None
            assert len(batch.features) == max(1, batch.share.clips[rank]) < len(batch.clip_ids)
            assert len(batch.text_ids) == max(1, batch.share.captions[rank]) < len(batch.caption_ids)
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
    until = time.monotonic() + 120
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


# ---- the tests ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    plant(folder / "store")
    launch(trainings, folder, NUMBER)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(NUMBER)]


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_one_process_with_the_whole_batch(
    folder: Path, found: list[dict[str, Any]], name: str
) -> None:
    alone = steps(folder / "store", name, 0, 1)
    exact = EXACT if name != "cross, bf16" else {"rtol": 0.05, "atol": 0.05}
    for each in found:
        together = each[name]
        for what in ("losses", "norms"):
            torch.testing.assert_close(torch.stack(together[what]), torch.stack(alone[what]), **exact)
        for mine, theirs in zip(together["stats"], alone["stats"], strict=True):
            assert mine == pytest.approx(theirs, abs=exact["atol"])
        for part in ("model", "bank"):
            assert together[part].keys() == alone[part].keys()
            for key, value in alone[part].items():
                if isinstance(value, torch.Tensor):
                    torch.testing.assert_close(together[part][key], value, msg=f"{part} {key}", **exact)
                    assert torch.equal(together[part][key], found[0][name][part][key])
                else:
                    assert together[part][key] == value


def test_rows_and_sums_and_their_gradients(found: list[dict[str, Any]]) -> None:
    for rank, each in enumerate(found):
        got = each["primitives"]
        assert got["gathered"].tolist() == [[0, 1], [2, 3], [20, 21]]
        ones = torch.ones(1, 2)
        expected = {0: torch.cat([6 * ones, 12 * ones]), 1: torch.zeros(2, 2), 2: torch.cat([18 * ones, 0 * ones])}
        assert torch.equal(got["rows"], expected[rank])
        assert (float(got["total"]), float(got["value"])) == (6.0, 6 * 2 * 6.0)
        assert got["totals"].tolist() == [3, 6]


def same_weights(first: Path, second: Path) -> bool:
    mine, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_one_process_writes_and_tells(folder: Path, found: list[dict[str, Any]]) -> None:
    assert [each["whole"] for each in found] == [True, False, False]
    assert [record["step"] for record in records(folder / "whole", "train")] == list(range(1, 9))
    assert len(records(folder / "whole", "validation")) == 1
    said = [(folder / f"said-trainings-{rank}").read_text() for rank in range(NUMBER)]
    assert "3 processes, each with its share of every batch" in said[0]
    assert "epoch 1/1" in said[0]
    assert said[1:] == ["", ""]


def test_a_request_to_one_process_stops_all_and_the_run_goes_on_bit_for_bit(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    ended = sorted(each["stopped"] for each in found)
    assert [kind for kind, _, _ in ended] == ["SystemExit", "SystemExit", "TrainingInterrupted"]
    assert {code for _, code, _ in ended} == {130}
    assert "stopped after step 5" in ended[-1][2]
    assert [each["resumed"] for each in found] == [("", 0, "")] * NUMBER
    assert same_weights(folder / "whole", folder / "parts")
    assert records(folder / "whole", "validation") == records(folder / "parts", "validation")
    states = [torch.load(folder / run / "checkpoint" / "state.pt", weights_only=True) for run in ("whole", "parts")]
    for first, second in zip(states[0]["random_of_others"], states[1]["random_of_others"], strict=True):
        assert torch.equal(first["torch"], second["torch"])
    assert states[0]["position"]["processes"] == NUMBER
    assert len({each["seed"] for each in found}) == NUMBER  # or the processes would drop the same elements


def test_one_process_goes_on_with_what_several_began(
    folder: Path, found: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    longer = config(**{**LONG.model_dump(), "optim": {**LONG.optim.model_dump(), "max_steps": 8}})
    train(longer, folder / "store", folder / "whole", resume=True, device="cpu")
    assert "the checkpoint is of 3 processes: the results differ by rounding" in capsys.readouterr().err


def test_a_folder_in_use_is_told_once(found: list[dict[str, Any]]) -> None:
    assert [(kind, code) for kind, code, _ in (each["used"] for each in found)] == [
        ("UsageError", 2),
        ("SystemExit", 2),
        ("SystemExit", 2),
    ]


def test_a_loss_that_is_not_finite_ends_all_and_is_told_once(found: list[dict[str, Any]]) -> None:
    ended = sorted(each["not finite"] for each in found)
    assert [(kind, code) for kind, code, _ in ended] == [("SupportsetError", 1), ("SystemExit", 1), ("SystemExit", 1)]
    assert ended[0][2].startswith("step 3: loss is nan")
    assert len(ended[0][2].partition("batch's clips: ")[2].split()) > 15  # those of the whole batch


def test_an_error_in_one_process_ends_all_and_is_told_once(tmp_path: Path) -> None:
    plant(tmp_path / "store")
    launch(one_fails, tmp_path, 2)
    ended = [json.loads((tmp_path / f"ended-{rank}.json").read_text()) for rank in range(2)]
    assert ended == [["SystemExit", 1, ""], ["SupportsetError", 1, "the disk of process 1 is gone"]]


def test_torchrun_makes_the_run_folder_that_one_process_makes(tmp_path: Path) -> None:
    store = plant(tmp_path / "store").root
    each = setting(support={"captioning": "full"}, optim={"epochs": 1, "batch_size": 32, "log_every": 1})
    (tmp_path / "small.toml").write_text(to_toml(each))
    train(each, store, tmp_path / "alone", device="cpu")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    verb = ["cli.py", "train", str(tmp_path / "small.toml"), "--store", str(store), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*launcher, *verb, "--json"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 8
    assert done.stderr.count("training on 116 clips") == 1
    names = [{path.name for path in (tmp_path / run).iterdir()} for run in ("alone", "run")]
    assert names[0] == names[1]
    first, second = (records(tmp_path / run, "train") for run in ("alone", "run"))
    for mine, theirs in zip(first, second, strict=True):
        for key in ("loss", "contrastive", "captioning", "grad_norm", "positive", "negative"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_the_shares_of_a_batch_are_the_batch(tmp_path: Path, place: str) -> None:
    plant(tmp_path / "store")
    each = setting(data={"place": place}, optim={"batch_size": 45})  # the last batch is small
    data = open_run_data(each, tmp_path / "store")
    texts = [caption.text for caption in data.train.captions]
    model = SupportSetModel.build(each, data.features.dim, texts)
    whole = make_loader(each, data, model, texts).batches(0)
    ranks: list[Any] = [SimpleNamespace(rank=rank, number=NUMBER, here=NUMBER) for rank in range(NUMBER)]
    shares = [make_loader(each, data, model, texts, processes=mine).batches(0) for mine in ranks]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert batch.share is None
        assert batch.labels is not None
        for part in parts:
            assert (part.clip_ids, part.caption_ids) == (batch.clip_ids, batch.caption_ids)
            assert torch.equal(part.caption_clip, batch.caption_clip)
            assert part.share.steps == batch.features.shape[1]
        for name in ("features", "feature_mask", "text_ids", "text_mask", "labels"):
            rows = list(chain(*(getattr(part, name) for part in parts)))
            expected = getattr(batch, name)
            assert len(rows) == len(expected)
            for mine, row in zip(rows, expected, strict=True):
                assert torch.equal(mine, row[: len(mine)])


def test_shares_are_even_and_hold_everything_once() -> None:
    for processes, clips, captions in ((2, 5, 9), (3, 2, 2), (4, 3, 64), (3, 9, 9)):
        shares = [Share.of(rank, processes, clips, captions, 7) for rank in range(processes)]
        for sizes, rows, number in (
            (shares[0].clips, [share.clip_rows for share in shares], clips),
            (shares[0].captions, [share.caption_rows for share in shares], captions),
        ):
            assert max(sizes) - min(sizes) <= 1
            kept = [range(number)[run][:size] for run, size in zip(rows, sizes, strict=True)]
            assert [*chain(*kept)] == list(range(number))
            assert all(run.stop - run.start == max(1, size) for run, size in zip(rows, sizes, strict=True))


def test_what_a_launch_cannot_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(UsageError, match="4 processes were launched on a machine with 3 CUDA devices"):
        open_accelerator(OptimConfig(), "auto")
    with pytest.raises(UsageError, match="--device cuda:1 is one device, and 4 processes were launched"):
        open_accelerator(OptimConfig(), "cuda:1")
    grid: Any = None
    with pytest.raises(UsageError, match="start it without a launcher"):
        run_study(grid, "nowhere", device="cpu")


def test_one_process_alone_exchanges_nothing() -> None:
    alone = Processes(SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu")))  # type: ignore[arg-type]
    weights = torch.nn.Linear(2, 2)
    alone.join(weights, 0)
    alone.sum_gradients(weights)
    assert alone.main
    assert not alone.any(False)
    assert alone.any(True)
    assert alone.collect("x") == ["x"]
    assert alone.from_main(lambda value: value + 1, 2) == 3
