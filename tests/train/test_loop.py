"""Training end to end on a planted store: it learns, resumes exactly, and stops when told or when something breaks."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from supportset.store.errors import SupportsetError, UsageError
from supportset.train.config import LossConfig, OptimConfig
from supportset.train.data.training_data import TrainingData
from supportset.train.loop.checkpoint import Position
from supportset.train.loop.schedule import collapse_hint, finished, rate_factor, warmup_loss
from supportset.train.loop.stop import TrainingInterrupted
from supportset.train.loop.training import train
from supportset.train.model.batch import Batch
from supportset.train.model.model import Losses, SupportSetModel
from supportset.train.run_folder import RunFolder
from tests.train.small_store import config, plant

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("store")).root


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def same_weights(first: Path, second: Path) -> bool:
    mine, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)


def at_batch(number: int, do: Callable[[], None]) -> Callable[..., Iterator[Batch]]:
    """TrainingData.batches that does something before its batch ``number`` (counted over epochs)."""
    original = TrainingData.batches
    count = 0

    def batches(self: TrainingData, epoch: int, start: int = 0) -> Iterator[Batch]:
        nonlocal count
        for batch in original(self, epoch, start):
            count += 1
            if count == number:
                do()
            yield batch

    return batches


@pytest.mark.parametrize("captioning", ["none", "cross"])
def test_a_short_training_finds_held_out_clips(root: Path, tmp_path: Path, captioning: str) -> None:
    setting = config(support={"captioning": captioning}, optim={"epochs": 4})
    result = train(setting, root, tmp_path / "run", device="cpu")
    last = records(tmp_path / "run", "validation")[-1]
    assert last["t2v/R@1"] > 60.0  # chance is 8
    assert last["v2t/R@1"] > 60.0
    assert result.steps == 4 * 8
    assert result.epochs == 4
    assert result.best == RunFolder(tmp_path / "run").read_json("best.json")
    assert result.best["validation"]["rsum"] == max(
        record["rsum"] for record in records(tmp_path / "run", "validation")
    )


def test_the_log_tells_losses_speed_and_waiting(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config(optim={"epochs": 2}), root, tmp_path / "run", device="cpu")
    steps = records(tmp_path / "run", "train")
    assert [record["step"] for record in steps] == [3, 6, 8, 9, 12, 15, 16]
    assert [record["epoch"] for record in steps] == [1, 1, 1, 2, 2, 2, 2]
    first = steps[0]
    assert first["loss"] == pytest.approx(first["contrastive"] + 0.5 * first["captioning"], rel=1e-5)
    assert first["grad_norm"] > 0
    assert first["lr"] == 3e-3
    assert first["captions_per_s"] > 0
    assert 0 <= first["data_wait"] <= 1
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "training on 116 clips, 232 captions of small" in shown.err
    assert "epoch 2/2" in shown.err
    assert "test queries are word for word training captions" in shown.err


def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(root: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(config(seed=seed, optim={"epochs": 1}), root, tmp_path / name, device="cpu")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize(
    ("stop_at", "support"),
    [
        (5, {}),
        (9, {}),
        (16, {}),
        (6, {"bank": 40, "max_age": 4, "size": 9, "mask_sources": True}),
        (13, {"bank": "all", "captioning": "hybrid"}),
    ],
)
def test_a_run_that_is_interrupted_goes_on_bit_for_bit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, support: dict[str, Any]
) -> None:
    optim = {"epochs": 2, "schedule": "cosine", "warmup_steps": 4}
    setting = config(video={"norm": "batch"}, optim=optim, support=support)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(setting, root, whole, device="cpu")
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingData, "batches", at_batch(stop_at, lambda: os.kill(os.getpid(), signal.SIGINT)))
        with pytest.raises(TrainingInterrupted, match=f"after step {stop_at}; .* --resume") as stopped:
            train(setting, root, parts, device="cpu")
    assert stopped.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    torch.manual_seed(99)  # nothing outside the checkpoint may matter
    train(setting, root, parts, resume=True, device="cpu")
    assert same_weights(whole, parts)
    assert json.loads((whole / "best.json").read_text()) == json.loads((parts / "best.json").read_text())
    assert records(whole, "validation") == records(parts, "validation")
    first, second = (torch.load(run / "checkpoint" / "state.pt", weights_only=True) for run in (whole, parts))
    assert first["position"] | {"seconds": 0} == second["position"] | {"seconds": 0}
    assert torch.equal(first["random"]["torch"], second["random"]["torch"])
    for part in ("model", "bank") if support else ("model",):
        for name, value in first[part].items():
            other = second[part][name]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


def test_a_crash_goes_on_from_the_last_checkpoint_and_the_log_has_each_step_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = config(optim={"epochs": 2, "checkpoint_every": 3, "log_every": 1})
    train(setting, root, tmp_path / "whole", device="cpu")

    def crash() -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingData, "batches", at_batch(15, crash))
        with pytest.raises(OSError, match="the power went"):
            train(setting, root, tmp_path / "run", device="cpu")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # cut off in the middle of a line
    train(setting, root, tmp_path / "run", resume=True, device="cpu")
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    assert [record["step"] for record in records(tmp_path / "run", "train")] == list(range(1, 17))
    assert records(tmp_path / "run", "validation") == records(tmp_path / "whole", "validation")


def test_a_trial_of_some_steps_goes_on_to_the_whole_run(root: Path, tmp_path: Path) -> None:
    train(config(optim={"epochs": 2}), root, tmp_path / "whole", device="cpu")
    result = train(config(optim={"epochs": 2, "max_steps": 5}), root, tmp_path / "run", device="cpu")
    assert result.steps == 5
    assert (tmp_path / "run" / "model.safetensors").exists()
    again = train(config(optim={"epochs": 2, "max_steps": 5}), root, tmp_path / "run", resume=True, device="cpu")
    assert again.steps == 5
    train(config(optim={"epochs": 2}), root, tmp_path / "run", resume=True, device="cpu")
    assert RunFolder(tmp_path / "run").load_config().optim.max_steps is None
    first, second = (
        torch.load(tmp_path / name / "checkpoint" / "state.pt", weights_only=True)["model"] for name in ("whole", "run")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_epoch_that_max_steps_ends_on_its_last_batch_is_counted(root: Path, tmp_path: Path) -> None:
    train(config(optim={"epochs": 2}), root, tmp_path / "whole", device="cpu")
    result = train(config(optim={"epochs": 2, "max_steps": 8}), root, tmp_path / "run", device="cpu")
    assert (result.epochs, result.steps) == (1, 8)
    train(config(optim={"epochs": 2}), root, tmp_path / "run", resume=True, device="cpu")
    assert records(tmp_path / "run", "validation") == records(tmp_path / "whole", "validation")
    states = [torch.load(tmp_path / run / "checkpoint" / "state.pt", weights_only=True) for run in ("whole", "run")]
    assert states[0]["position"] | {"seconds": 0} == states[1]["position"] | {"seconds": 0}


def test_the_number_of_epochs_is_kept_where_the_learning_rate_depends_on_it(root: Path, tmp_path: Path) -> None:
    for schedule in ("linear", "cosine"):
        optim = {"epochs": 1, "schedule": schedule, "max_steps": 2}
        train(config(support={"captioning": "none"}, optim=optim), root, tmp_path / schedule, device="cpu")
        longer = config(support={"captioning": "none"}, optim={**optim, "epochs": 2})
        with pytest.raises(
            UsageError, match=rf"optim.epochs is 1 there and 2 here \(the learning rate of a {schedule}"
        ):
            train(longer, root, tmp_path / schedule, resume=True, device="cpu")
        more = config(support={"captioning": "none"}, optim={**optim, "max_steps": 3})
        assert train(more, root, tmp_path / schedule, resume=True, device="cpu").steps == 3


def test_batches_of_one_clip_alone_are_counted_and_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = config(
        data={"holdout": 0.9}, support={"captioning": "none"}, optim={"epochs": 8, "batch_size": 2, "log_every": 1}
    )
    result = train(setting, root, tmp_path / "run", device="cpu")
    told = records(tmp_path / "run", "epoch")
    data = json.loads((tmp_path / "run" / "data.json").read_text())["train"]
    assert 0 < len(told) < 8
    assert result.steps == 8 * (data["captions"] // 2) - sum(record["batches_left_out"] for record in told)
    said = capsys.readouterr().err
    for record in told:
        words = f"epoch {record['epoch']}: {record['batches_left_out']} batches of captions of one clip alone"
        assert words in said


def test_damaged_lines_of_the_log_are_removed_and_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optim = {"epochs": 1, "log_every": 1}
    train(config(support={"captioning": "none"}, optim=optim), root, tmp_path / "run", device="cpu")
    log = tmp_path / "run" / "metrics.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b"\0\0\0\n" + b'{"kind": "train"}\n[1]\n{"step": "3"}\n{"kind": "tr')
    longer = config(support={"captioning": "none"}, optim={**optim, "epochs": 2})
    train(longer, root, tmp_path / "run", resume=True, device="cpu")
    assert "metrics.jsonl: removed 5 damaged lines" in capsys.readouterr().err
    assert log.read_bytes().startswith(whole)
    assert [record["step"] for record in records(tmp_path / "run", "train")] == list(range(1, 17))


def test_a_model_is_on_the_disk_before_it_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    rename = os.replace
    monkeypatch.setattr("supportset.train.run_folder.flush", lambda file: done.append(("flush", file.name)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append(("rename", Path(names[1]).name)), rename(*names)))

    class Model:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "text_encoder").mkdir(parents=True)
            for name in ("model.safetensors", "config.json", "text_encoder/tokenizer.json"):
                (folder / name).write_text("x")

    RunFolder(tmp_path / "run").save_model(Model(), {})
    assert sorted(done[:3]) == [("flush", name) for name in ("config.json", "model.safetensors", "tokenizer.json")]
    assert sorted(done[3:5]) == [("rename", "config.json"), ("rename", "text_encoder")]
    assert done[5] == ("rename", "model.safetensors")
    assert not (tmp_path / "run" / ".model.tmp").exists()


def test_the_model_kept_is_the_best_by_validation(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([1.0, 5.0, 5.0, 2.0, 9.0])
    monkeypatch.setattr(
        "supportset.train.loop.training.Validation.scores", lambda self, model: {"rsum": next(scores)} | only_r1()
    )
    setting = config(support={"captioning": "none"}, optim={"epochs": 5, "patience": 2})
    result = train(setting, root, tmp_path / "run", device="cpu")
    assert result.epochs == 4  # two epochs without a better score, the tie not counted as better
    assert result.best["epoch"] == 2
    assert result.best["step"] == 16
    kept = SupportSetModel.from_pretrained(tmp_path / "run")
    last = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)["model"]
    assert any(not torch.equal(value, last[name]) for name, value in kept.state_dict().items())


def only_r1() -> dict[str, float]:
    return {f"{way}/R@{k}": 0.0 for way in ("t2v", "v2t") for k in (1, 5)}


def test_the_last_model_is_kept_where_nothing_is_held_out(root: Path, tmp_path: Path) -> None:
    setting = config(data={"holdout": 0.0}, support={"captioning": "none"}, optim={"epochs": 2, "select_by": "last"})
    result = train(setting, root, tmp_path / "run", device="cpu")
    assert result.best["epoch"] == 2
    assert records(tmp_path / "run", "validation") == []
    kept = SupportSetModel.from_pretrained(tmp_path / "run").state_dict()
    last = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)["model"]
    assert all(torch.equal(kept[name], last[name]) for name in kept)


def test_warm_up_negatives_reach_the_model(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = SupportSetModel.forward

    def forward(self: SupportSetModel, batch: Batch, *, loss: LossConfig, **rest: Any) -> Losses:
        seen.append(loss.negatives)
        return original(self, batch, loss=loss, **rest)

    monkeypatch.setattr(SupportSetModel, "forward", forward)
    setting = config(
        support={"captioning": "none"}, loss={"warmup": "summed", "warmup_epochs": 0.5}, optim={"epochs": 1}
    )
    train(setting, root, tmp_path / "run", device="cpu")
    assert seen == ["summed"] * 4 + ["hardest"] * 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_the_batchs_clips(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    batches: list[list[str]] = []
    original = SupportSetModel.forward

    def forward(self: SupportSetModel, batch: Batch, **rest: Any) -> Losses:
        batches.append(batch.clip_ids)
        losses = original(self, batch, **rest)
        if len(batches) == 5:
            losses.total = losses.total * bad
        return losses

    monkeypatch.setattr(SupportSetModel, "forward", forward)
    with pytest.raises(SupportsetError) as error:
        train(config(optim={"log_every": 4, "checkpoint_every": 6}), root, tmp_path / "run", device="cpu")
    assert str(error.value).startswith("step 5: loss is ")
    assert " ".join(batches[4]) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoint").exists()  # the one due after step 6 would have been of no use


def test_a_run_folder_in_use_is_refused_and_left_as_it_is(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(support={"captioning": "none"}, optim={"epochs": 1}), root, run, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(UsageError, match=r"not empty; continue it with --resume, or give another --out"):
        train(config(support={"captioning": "none"}), root, run, device="cpu")
    with pytest.raises(UsageError, match=r"support.captioning is 'none' there and 'cross' here"):
        train(config(), root, run, resume=True, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UsageError, match="not empty; give another --out"):
            train(config(), root, tmp_path / "other", resume=resume, device="cpu")


def test_a_changed_store_is_not_resumed_from(tmp_path: Path) -> None:
    root = plant(tmp_path / "features").root
    setting = config(support={"captioning": "none"}, optim={"epochs": 1})
    train(setting, root, tmp_path / "run", device="cpu")
    shutil.rmtree(root)
    plant(root, noise=0.06)
    with pytest.raises(SupportsetError, match="have changed since the run began"):
        train(config(support={"captioning": "none"}), root, tmp_path / "run", resume=True, device="cpu")


def test_a_damaged_checkpoint_is_one_line(root: Path, tmp_path: Path) -> None:
    setting = config(support={"captioning": "none"}, optim={"epochs": 1})
    train(setting, root, tmp_path / "run", device="cpu")
    state = tmp_path / "run" / "checkpoint" / "state.pt"
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(SupportsetError, match=r"state\.pt: cannot resume from it") as error:
        train(config(support={"captioning": "none"}), root, tmp_path / "run", resume=True, device="cpu")
    assert "\n" not in str(error.value)


def test_nothing_is_written_where_something_is_wrong(root: Path, tmp_path: Path) -> None:
    for changes in ({"data": {"protocol": "other"}}, {"optim": {"precision": "fp16"}}):
        with pytest.raises(UsageError):
            train(config(**changes), root, tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match="not one of auto, cpu, cuda"):
        train(config(), root, tmp_path / "run", device="gpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("capable", [True, False])
def test_bf16_is_computed_in_float32_where_the_cpu_has_no_bf16(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], capable: bool
) -> None:
    monkeypatch.setattr("supportset.train.device.cpu_computes_bf16", lambda: capable)
    seen: list[bool] = []
    original = SupportSetModel.forward

    def forward(self: SupportSetModel, *args: Any, **options: Any) -> Losses:
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(self, *args, **options)

    monkeypatch.setattr(SupportSetModel, "forward", forward)
    train(config(optim={"max_steps": 2, "precision": "bf16"}), root, tmp_path / "run", device="cpu", resume=True)
    assert seen == [capable] * 2
    said = capsys.readouterr().err
    assert ("this CPU has no bf16 instructions, so the run computes in fp32" in said) is not capable
    assert "state.pt: no such checkpoint, so the run starts from step 0" in said
    assert "step 1: loss " in said, "the first step is reported when it ends"


def test_a_second_signal_ends_the_process_within_a_step(root: Path, tmp_path: Path) -> None:
    script = """
import hashlib, os, signal, sys, threading, time
from supportset.train.loop.stop import StopRequest
def send():
    for _ in range(2):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send, daemon=True).start()
with StopRequest(at_once=True, message="stopping"):
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 9)  # like a long operation of PyTorch: no signal handler runs in it
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "stopping\n")


def test_bf16_trains_and_leaves_float32_weights(root: Path, tmp_path: Path) -> None:
    train(config(optim={"epochs": 2, "precision": "bf16"}), root, tmp_path / "run", device="cpu")
    assert all(value.dtype != np.float16 for value in load_file(tmp_path / "run" / "model.safetensors").values())
    assert records(tmp_path / "run", "validation")[-1]["t2v/R@1"] > 30.0


def test_the_resolved_configuration_reads_back_to_itself(tmp_path: Path) -> None:
    setting = config(name="say hi, ü (1)", optim={"learning_rate": 1e-5, "patience": 3, "head_learning_rate": 2e-4})
    folder = RunFolder(tmp_path / "run")
    folder.create(setting, {})
    assert folder.load_config() == setting


def test_learning_rate_by_hand() -> None:
    linear = OptimConfig(schedule="linear", warmup_steps=4)
    assert [rate_factor(linear, step, 12) for step in (0, 1, 3, 4, 8, 11)] == [0.25, 0.5, 1.0, 1.0, 0.5, 0.125]
    cosine = OptimConfig(schedule="cosine")
    assert [rate_factor(cosine, step, 4) for step in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])
    assert rate_factor(OptimConfig(), 7, 3) == 1.0


def test_warm_up_is_only_for_the_loss_that_collapses() -> None:
    assert warmup_loss(LossConfig(), 9, 10) == LossConfig(contrastive="infonce")
    assert warmup_loss(LossConfig(warmup="summed"), 9, 10) == LossConfig(warmup="summed", negatives="summed")
    assert warmup_loss(LossConfig(), 10, 10) == LossConfig()
    for other in ({"warmup": "none"}, {"contrastive": "infonce"}, {"negatives": "summed"}):
        loss = LossConfig(**other)  # type: ignore[arg-type]
        assert warmup_loss(loss, 0, 10) is loss


def test_a_collapse_is_named() -> None:
    assert "collapsed" in (collapse_hint(LossConfig(margin=0.2), 0.4005) or "")
    assert collapse_hint(LossConfig(margin=0.2, contrastive="infonce"), 0.4005) is None
    assert collapse_hint(LossConfig(margin=0.3), 0.4005) is None
    assert collapse_hint(LossConfig(margin=0.2), None) is None  # resumed at an epoch's very end


def test_a_run_ends_by_epochs_steps_or_patience() -> None:
    assert finished(OptimConfig(epochs=3), Position(epoch=3))
    assert not finished(OptimConfig(epochs=3, max_steps=10, patience=2), Position(epoch=2, step=9, stale_epochs=1))
    assert finished(OptimConfig(epochs=3, max_steps=10), Position(step=10))
    assert finished(OptimConfig(epochs=3, patience=2), Position(stale_epochs=2))
