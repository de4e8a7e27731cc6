"""``extract-text`` from the command line: one JSON object, one line for a mistake, and `store` tells what it made."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from commands.main import cli
from tests.extract.text_models import CAPTIONS, captions_of, save_bert

ROOT = Path(__file__).resolve().parents[2]


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


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(bert: Path, tmp_path: Path) -> None:
    captions_of(tmp_path / "features", [f"{text} {number}" for number in range(200) for text in CAPTIONS])
    command = [sys.executable, "cli.py", "extract-text", "said", "--encoder", str(bert)]
    command += ["--store", str(tmp_path / "features"), "--batch-size", "1", "--device", "cpu", "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "to do" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert "the same command goes on from there" in stderr.strip().splitlines()[-1]
    assert "Traceback" not in stderr
    options = ["--store", tmp_path / "features", "--batch-size", "256", "--device", "cpu", "--json"]
    whole = ask("extract-text", "said", "--encoder", bert, *options)
    assert json.loads(whole.stdout)["status"] == {"ok": 1400}
