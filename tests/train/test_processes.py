"""Several processes on shares of a batch train as one process does on the whole; they stop, fail and go on together.

Most of what is tested happens in one launch of three processes (`process_tasks`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from supportset.store.errors import UsageError
from supportset.train.ablation.study import run_study
from supportset.train.config import OptimConfig
from supportset.train.data.source import open_run_data
from supportset.train.device import open_accelerator
from supportset.train.loop.preparation import make_loader
from supportset.train.loop.ranks import Ranks
from supportset.train.loop.training import train
from supportset.train.model.batch import RankShard
from supportset.train.model.model import SupportSetModel
from supportset.train.run_folder import to_toml
from tests.extract.pairs import save_pair
from tests.train.process_tasks import CASES, LONG, NUMBER, launch, one_fails, setting, steps, trainings
from tests.train.small_store import config, plant, recipe_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXACT = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    save_pair("clip", folder / "pair")
    pair = f"hf:{folder / 'pair'}"
    plant(folder / "store", of=recipe_of(pair), given=pair)
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
    assert "3 processes, each with its shard of every batch" in said[0]
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
    assert "the checkpoint was written by 3 processes: results differ by rounding" in capsys.readouterr().err


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
    shares = [make_loader(each, data, model, texts, ranks=mine).batches(0) for mine in ranks]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert batch.shard is None
        assert batch.labels is not None
        for part in parts:
            assert (part.clip_ids, part.caption_ids) == (batch.clip_ids, batch.caption_ids)
            assert torch.equal(part.caption_clip, batch.caption_clip)
            assert part.shard.steps == batch.features.shape[1]
        for name in ("features", "feature_mask", "text_ids", "text_mask", "labels"):
            rows = list(chain(*(getattr(part, name) for part in parts)))
            expected = getattr(batch, name)
            assert len(rows) == len(expected)
            for mine, row in zip(rows, expected, strict=True):
                assert torch.equal(mine, row[: len(mine)])


def test_shares_are_even_and_hold_everything_once() -> None:
    for processes, clips, captions in ((2, 5, 9), (3, 2, 2), (4, 3, 64), (3, 9, 9)):
        shards = [RankShard.of(rank, processes, clips, captions, 7) for rank in range(processes)]
        for sizes, rows, number in (
            (shards[0].clips, [shard.clip_rows for shard in shards], clips),
            (shards[0].captions, [shard.caption_rows for shard in shards], captions),
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
    alone = Ranks(SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu")))  # type: ignore[arg-type]
    weights = torch.nn.Linear(2, 2)
    alone.join(weights, 0)
    alone.sum_gradients(weights)
    assert alone.main
    assert not alone.any(False)
    assert alone.any(True)
    assert alone.collect("x") == ["x"]
    assert alone.on_rank_zero(lambda value: value + 1, 2) == 3
