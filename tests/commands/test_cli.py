"""The command line itself: its documentation is true, and mistakes are answered in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from supportset._program import program
from supportset.commands.main import cli
from supportset.commands.reference import reference

ROOT = Path(__file__).resolve().parents[2]


def test_reference_is_current() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == reference(), "run `make docs`"


def test_every_option_is_documented() -> None:
    silent = [
        f"{verb} {option.opts[0]}"
        for verb in cli.list_commands(None)  # type: ignore[arg-type]
        for option in cli.get_command(None, verb).params  # type: ignore[arg-type, union-attr]
        if option.param_type_name == "option" and not option.help and not getattr(option.type, "choices", None)
    ]
    assert not silent


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["extract", "msrvt", "--data", "."], "msrvtt"),
        (["extract", "msrvtt", "--data", "EMPTY"], "train_val_videodatainfo.json"),
        (["extract", "msvd", "--data", "EMPTY"], "AllVideoDescriptions.txt"),
        (["extract", "vatex", "--data", "EMPTY"], "vatex_training_v1.0.json"),
        (["extract", "activitynet", "--data", "EMPTY"], "val_1.json"),
        (["extract", "flickr8k", "--data", "EMPTY"], "captions.txt"),
        (["extract", "folder", "--data", "EMPTY"], "video"),
        (["extract", "folder", "--data", "absent"], "absent"),
        (["extract", "folder", "--data", "FILMS", "--backbone", "efficientnet:0"], "efficientnet_lite"),
        (["extract", "folder", "--data", "FILMS", "--fps", "0"], "fps"),
        (["extract", "folder", "--data", "FILMS", "--fps", "1", "--frames", "2"], "frames"),
        (["extract", "folder", "--data", "FILMS", "--device", "gpu", "--backbone", "efficientnet_lite:0"], "gpu"),
        (["extract", "folder", "--data", "FILMS", "--shard", "3/2"], "3/2"),
        (["train", "absent.toml"], "absent.toml"),
        (["train", "CONFIG", "data.datset=x"], "dataset"),
        (["train", "CONFIG", "optim.epochs=many"], "optim.epochs"),
        (["train", "CONFIG"], "demo"),
        (["eval", "absent"], "absent"),
        (["search", "absent", "a ball"], "absent"),
        (["store", "show", "nothing", "--store", "EMPTY"], "nothing"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"EMPTY": tmp_path / "empty", "FILMS": tmp_path / "films", "CONFIG": ROOT / "configs" / "demo.toml"}
    places["EMPTY"].mkdir()
    places["FILMS"].mkdir()
    (places["FILMS"] / "a.mp4").write_text("text with another name")
    store = [] if "--store" in words or words[0] == "store" else ["--store", str(tmp_path / "store")]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, [str(places.get(word, word)) for word in words] + store)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert says in lines[0]
    assert not list(tmp_path.rglob("*.zarr"))
    assert not (tmp_path / "store").exists()


def test_no_traceback_and_nothing_on_stdout_from_a_real_process(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "eval", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_tables_alone_are_told_as_json(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_text("never opened")
    words = [
        "extract",
        "folder",
        "--data",
        tmp_path / "films",
        "--store",
        tmp_path / "s",
        "--annotations-only",
        "--json",
    ]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["dataset"], told["clips"], told["captions"]) == ("films", 1, 0)
    assert (Path(told["path"]) / "clips.parquet").is_file()


def test_another_folder_under_a_taken_name_is_refused(tmp_path: Path) -> None:
    words = ["extract", "folder", "--name", "mine", "--annotations-only", "--store", str(tmp_path / "store")]
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.mp4").write_text("never opened")
    first, second = (["--data", str(tmp_path / name)] for name in ("first", "second"))
    assert CliRunner().invoke(cli, words + first).exit_code == 0
    refused = CliRunner().invoke(cli, words + second)
    assert refused.exit_code == 2
    assert all(name in refused.stderr.splitlines()[-1] for name in (first[1], second[1], "--name", "--replace"))
    assert CliRunner().invoke(cli, [*words, *second, "--replace"]).exit_code == 0
    assert CliRunner().invoke(cli, words + first).exit_code == 2


def test_ctrl_c_is_one_line_and_exit_code_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("supportset.store.format.dataset.list_datasets", stopped)
    result = CliRunner().invoke(cli, ["store", "ls", "--store", str(tmp_path)])
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr.startswith("Error: stopped")
    assert len(result.stderr.splitlines()) == 1


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['cli.py', '--help']\n"
        "from supportset.commands.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert answer.returncode == 0, answer.stderr


def test_a_store_that_is_not_there_is_no_success(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["store", "ls", "--store", str(tmp_path / "new")]).exit_code == 2


@pytest.mark.parametrize(
    ("verb", "nearest"),
    [("trian", "train"), ("verify", "store verify"), ("extracts", "extract"), ("zzz", "Verbs: extract, ")],
)
def test_a_mistyped_verb_is_answered_with_the_nearest(verb: str, nearest: str) -> None:
    result = CliRunner().invoke(cli, [verb, "--json"])
    assert result.exit_code == 2
    assert f"No such command {verb!r}. " in result.stderr
    assert nearest in result.stderr


@pytest.mark.parametrize(
    ("started", "name"),
    [
        ("/somewhere/bin/supportset", "supportset"),
        ("/somewhere/supportset/__main__.py", "python -m supportset"),
        ("cli.py", "python cli.py"),
        ("/somewhere/pytest/__main__.py", "supportset"),
        ("-c", "supportset"),
    ],
)
def test_messages_name_the_program_that_was_started(started: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [started, "train"])
    assert program() == name
