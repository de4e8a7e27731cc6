"""``extract-text`` from the command line: one JSON object, one line for a mistake, and `store` tells what it made."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from supportset.commands.main import cli
from supportset.extract.text.encoders.families.hf import HfTextEncoder
from tests.extract.text_models import CAPTIONS, captions_of, save_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bert"
    save_bert(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    captions_of(tmp_path / "features")
    return tmp_path / "features"


def ask(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def test_json_and_the_store_verbs_tell_it(bert: Path, store: Path) -> None:
    told = ask("extract-text", "said", "--encoder", bert, "--store", store, "--dtype", "float32", "--json")
    summary = json.loads(told.stdout)
    assert list(summary) == ["dataset", "feature_set", "path", "captions", "status", "seconds"]
    assert (summary["captions"], summary["status"]) == (7, {"ok": 6, "empty": 1})
    assert summary["feature_set"].startswith("hf-bert-text-")
    (entry,) = json.loads(ask("store", "ls", "--store", store, "--json").stdout)["said"]
    assert (entry["kind"], entry["name"], entry["dim"]) == ("text", summary["feature_set"], 12)
    assert "  text, 12 x float32  6 ok, 1 empty" in ask("store", "ls", "--store", store).stdout
    shown = ask("store", "show", "said/bert", "--store", store).stdout
    assert "captions      6 ok, 1 empty" in shown
    assert " a caption)" in shown
    assert "tokens " in shown
    again = json.loads(ask("extract-text", "said", "--encoder", bert, "--store", store, "--dtype", "float32",
                           "--json").stdout)  # fmt: skip
    assert again | {"seconds": 0} == summary | {"seconds": 0}


def test_hdf5_pooled_and_a_part(bert: Path, store: Path) -> None:
    options = ("--format", "hdf5", "--pooling", "mean", "--split", "test", "--max-tokens", "8")
    summary = json.loads(ask("extract-text", "said", "--encoder", bert, "--store", store, "--json", *options).stdout)
    assert summary["captions"] == 3
    assert list(Path(summary["path"]).glob("shards/*.h5"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sad"], "no dataset 'sad'; there are said"),
        (["said", "--encoder", "./nothing"], "./nothing"),
        (["said", "--max-tokens", "41"], "max_tokens = 41"),
        (["said", "--split", "dev"], "it has test, train"),
        (["said", "--device", "gpu"], "gpu"),
        (["said", "--limit", "0"], "limit of 0"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(words: list[str], says: str, bert: Path, store: Path) -> None:
    options = [] if "--encoder" in words else ["--encoder", bert]
    told = ask("extract-text", *words, *options, "--store", store, code=2)
    assert told.stdout == ""
    assert says in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
    assert not (store / "said" / "features").exists()


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
    bert: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions_of(store, [f"{text} {number}" for number in range(10) for text in CAPTIONS])
    command = ("extract-text", "said", "--encoder", bert, "--store", store, "--device", "cpu", "--json")
    original, batches = HfTextEncoder.encode, []

    def encode(self: HfTextEncoder, *tensors: torch.Tensor) -> torch.Tensor:
        batches.append(len(tensors[0]))
        if len(batches) == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *tensors)

    with monkeypatch.context() as patch:
        patch.setattr(HfTextEncoder, "encode", encode)
        told = ask(*command, "--batch-size", "1", code=130)
    assert told.stdout == ""
    assert "of 70 captions the store has 32 ok, " in told.stderr.strip().splitlines()[-1]
    assert json.loads(ask(*command).stdout)["status"] == {"ok": 70}
