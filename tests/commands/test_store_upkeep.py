"""``store verify``, ``compact`` and ``rm`` on the command line: what is printed where, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from supportset.commands.main import cli
from supportset.commands.store import store_command
from supportset.commands.store_upkeep import compact_command, rm_command, verify_command
from supportset.store.read.feature_set import FeatureSet
from tests.store.samples import assert_holds, clips, recipe, write

for command in (verify_command, compact_command, rm_command):
    store_command.add_command(command)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one set of three shards."""
    write(tmp_path / "d" / "features" / recipe().folder, clips(6), clips_per_shard=2)
    return tmp_path


def run(store: Path, *arguments: str, code: int = 0, answer: str | None = None) -> Result:
    """Run a verb of ``store``; anything but the expected exit, and any traceback, fails."""
    result = CliRunner().invoke(cli, ["store", *arguments, "--store", str(store)], input=answer)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def folder(store: Path) -> Path:
    return store / "d" / "features" / recipe().folder


def damage(store: Path) -> Path:
    file = next(folder(store).glob("shards/*.zarr/values/c.0.0"))
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    return file


def told(result: Result) -> Any:
    return json.loads(result.stdout)


def test_verify_and_fix(store: Path) -> None:
    result = run(store, "verify")
    assert "6 clips in 3 shards" in result.stdout
    assert "no problems" in result.stdout
    file = damage(store)
    result = run(store, "verify", "d/made_up", code=1)
    assert "1 problem\n" in result.stdout
    assert f"content: {file}: its content differs from what was written" in result.stderr
    assert result.stderr.splitlines()[-1] == f"Error: {store}: 1 problem found: see above"
    report = told(run(store, "verify", "--json", code=1))
    (clip_id,) = report["sets"][0]["damaged_clips"]
    assert f"\n  {clip_id}\n" in result.stderr
    assert (report["problems"], report["sets"][0]["problems"][0]["path"]) == (1, str(file))
    report = told(run(store, "verify", "--drop-damaged", "--json"))
    assert report["sets"][0]["dropped_clips"] == [clip_id]
    assert told(run(store, "verify", "--json"))["problems"] == 0
    assert clip_id not in FeatureSet.open(folder(store))
    assert len(FeatureSet.open(folder(store))) == 5


def test_harmless_things_are_notes(store: Path) -> None:
    (folder(store) / "shards" / "notes.txt").write_text("mine")
    result = run(store, "verify")
    assert "note: " in result.stderr
    assert "notes.txt" in result.stderr


def test_compact(store: Path) -> None:
    (folder(store) / "shards" / ".tmp-00000000-x.h5").write_text("half")
    result = run(store, "compact", "d")
    assert "3 shards are now 1" in result.stdout
    assert "1 unfinished files are left" in result.stderr
    assert_holds(folder(store), clips(6))
    report = told(run(store, "compact", "d", "--now", "--json"))
    assert (report["merged"], len(report["orphans"])) == (0, 1)
    damage(store)
    write(folder(store), {"x": clips(1)["clip0"]})
    result = run(store, "compact", "d", code=1)
    assert "damaged: " in result.stderr
    assert "1 damaged shards are left as they are" in result.stderr


def test_rm_asks(store: Path) -> None:
    result = run(store, "rm", "d/made_up", code=1, answer="n\n")
    assert "MB? [y/N]" in result.stderr
    run(store, "rm", "d/made_up", code=1, answer="")
    assert_holds(folder(store), clips(6))
    assert run(store, "rm", "d/made_up", answer="y\n").stdout.startswith("deleted ")
    assert not folder(store).exists()


def test_rm_of_a_dataset(store: Path) -> None:
    report = told(run(store, "rm", "d", "--dataset", "--yes", "--json"))
    assert report["feature_sets"] == [recipe().folder]
    assert report["bytes"] > 0
    assert not (store / "d").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rm", "d", "--yes"], "'d' names no feature set: write d/WORDS, or --dataset"),
        (["rm", "d/made_up", "--dataset", "--yes"], "leave --dataset out"),
        (["rm", "d/other", "--yes"], "no feature set fits 'd/other'"),
        (["rm", "e", "--dataset", "--yes"], "no dataset 'e'"),
        (["compact", "e"], "no features of a dataset 'e'"),
        (["verify", "e"], "no features of a dataset 'e'"),
        (["compact", "d", "--clips-per-shard", "0"], "0"),
    ],
)
def test_wrong_use_is_exit_code_2(store: Path, arguments: list[str], says: str) -> None:
    assert says in run(store, *arguments, code=2).stderr
    assert_holds(folder(store), clips(6))


def test_verify_of_an_empty_store(tmp_path: Path) -> None:
    assert "no feature sets here" in run(tmp_path, "verify", code=2).stderr
