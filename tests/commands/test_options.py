"""JSON of foreign text, and what --store refuses."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.commands.options import print_json

NASTY = "".join(
    map(chr, [*range(0xA1), 0x200B, *range(0x200E, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A)])
)
LONE = "\ud800x\udfff"


@pytest.mark.parametrize("text", [NASTY, LONE, "\U000e0001", 'naïve 日本 👩‍👩‍👧 \\u009b "quoted"', "a\\"])
def test_json_is_plain_and_parses_to_the_same_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {text: [text, {"k": text}], "n": 1.5}
    print_json(value)
    written = capsys.readouterr().out
    assert json.loads(written) == value
    written.encode("utf-8")
    marks = {char for char in written if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert marks <= {"\n", "\u200d"}  # joiners: emoji need them


def test_json_keeps_the_letters_of_any_script(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"caption": "ein Käfer, 一只甲虫"})
    assert "ein Käfer, 一只甲虫" in capsys.readouterr().out


@pytest.mark.parametrize("below", ["", "sub/folder"])
@pytest.mark.parametrize(
    "words",
    [
        ["store", "ls"],
        ["store", "verify"],
        ["extract", "folder", "--data", "films"],
        ["train", "demo"],
        ["eval", "run"],
        ["search", "run", "a dog"],
        ["extract-text", "d", "--encoder", "hashed:8"],
    ],
)
def test_a_file_is_no_store(words: list[str], below: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no store")
    result = CliRunner().invoke(cli, [*words, "--store", str(file / below)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"{file} is a file, and a store is a folder" in result.stderr
    assert len(result.stderr.splitlines()) == 1
