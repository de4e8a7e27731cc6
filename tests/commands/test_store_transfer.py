"""``store import``, ``export`` and ``convert`` on the command line: what is printed where, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from supportset.commands.main import cli
from supportset.commands.store import store_command
from supportset.commands.store_transfer import Progress, convert_command, export_command, import_command
from supportset.store.files import LocalFolder
from supportset.store.format.dataset import write_dataset
from supportset.store.format.index import read_all
from supportset.store.read.catalog import find_feature_set

for command in (import_command, export_command, convert_command):
    store_command.add_command(command)

CLIPS = {f"clip{i}": np.random.default_rng(i).standard_normal((i + 1, 4)).astype(np.float16) for i in range(4)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of four clips."""
    folder = tmp_path / "src"
    folder.mkdir()
    for clip_id, array in CLIPS.items():
        np.save(folder / f"{clip_id}.npy", array)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def run(*arguments: Any, code: int = 0) -> Result:
    """Run a verb of ``store``; anything but the expected exit, and any traceback, fails."""
    result = CliRunner().invoke(cli, ["store", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code == 1:  # click tells a missing option in several lines
        assert result.stderr.rstrip().splitlines()[-1].startswith("Error: ")
    return result


def test_import_export_convert_from_end_to_end(tmp_path: Path, source: Path, store: str) -> None:
    arguments = ("import", "d", source, "--name", "net", "--fps", 2, "--state", "resize=224=x", "--store", store)
    result = run(*arguments)
    assert result.stdout.startswith("4 clips imported in ")
    assert "`extract READER --name d --data DIR --annotations-only`" in result.stderr
    features = find_feature_set(store, "d/net")
    assert features.card.recipe.transform == {"stated": {"resize": "224=x"}}
    assert run(*arguments).stdout.startswith("0 clips imported, 4 were there")
    result = run("convert", "d/net", "--to", "hdf5", "--store", store)
    assert result.stdout.startswith("1 shards with 4 clips converted to hdf5")
    assert [index.shard_format for index in read_all(LocalFolder(features.path / "shards"))[0]] == ["hdf5"]
    result = run("convert", "d/net", "--format", "zarr", "--compress", "zstd:9", "--store", store)
    assert result.stdout.startswith("1 shards with 4 clips converted to zarr (zstd:9), 0.0 MB are now 0.0 MB, ")
    ((index,), _) = read_all(LocalFolder(features.path / "shards"))
    assert (index.shard_format, index.arrays) == ("zarr", {})
    result = run("export", "d/net", tmp_path / "out", "--to", "npy", "--timestamps", tmp_path / "t", "--store", store)
    assert result.stdout.startswith("4 clips, 0.0 MB")
    for clip_id, array in CLIPS.items():
        assert (tmp_path / "out" / f"{clip_id}.npy").read_bytes() == (source / f"{clip_id}.npy").read_bytes()
        edges = np.arange(len(array) + 1) / 2
        assert np.load(tmp_path / "t" / f"{clip_id}.npy").tolist() == np.stack([edges[:-1], edges[1:]], 1).tolist()


def test_json_alone_is_on_standard_output(tmp_path: Path, source: Path, store: str) -> None:
    np.save(source / "bad.npy", np.full((2, 4), np.nan, np.float16))
    many = ("--max-failures", "50%")
    told = json.loads(run("import", "d", source, "--name", "net", "--store", store, *many, "--json").stdout)
    assert told["status"] == {"ok": 4, "not_finite": 1}
    assert [failure["clip_id"] for failure in told["failures"]] == ["bad"]
    assert Path(told["path"]).is_dir()
    told = json.loads(run("convert", "d", "--to", "hdf5", "--store", store, "--json").stdout)
    assert (told["converted"], told["clips"], told["compression"]) == (1, 4, "none")
    assert (
        "use zstd[:1-9] or none"
        in run("convert", "d", "--to", "zarr", "--compress", "lzma", "--store", store, code=2).stderr
    )
    told = json.loads(run("export", "d", tmp_path / "o.h5", "--to", "hdf5", "--store", store, "--json").stdout)
    assert (told["clips"], told["left_out"], told["timestamps"]) == (4, {"not_finite": 1}, None)


def test_failures_are_counted_and_listed(source: Path, store: str) -> None:
    for i in range(13):
        (source / f"bad{i:02}.npy").write_bytes(b"x" * i)
    result = run("import", "d", source, "--name", "net", "--store", store, code=1)
    assert "13 of 17 clips failed, more than 5%" in result.stderr
    assert "13 clips failed: 13 unreadable" in result.stderr
    assert "bad00: unreadable, the file is empty" in result.stderr
    assert "bad10" not in result.stderr
    assert "3 more" in result.stderr


def test_exit_code_is_1_where_nothing_came_in(tmp_path: Path, store: str) -> None:
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src" / "a.npy", np.full((2, 4), np.inf, np.float16))
    result = run("import", "d", tmp_path / "src", "--name", "net", "--store", store, code=1)
    assert "not one clip could be imported" in result.stderr


def test_strict_wants_everything(source: Path, store: str) -> None:
    arguments = ("import", "d", source, "--name", "net", "--store", store, "--strict")
    run(*arguments)
    write_dataset(
        store, "d", clips=[{"clip_id": c} for c in [*CLIPS, "x"]], captions=[], splits=[], protocols={}, sources=[]
    )
    result = run(*arguments, code=1)
    assert "failed 0, clips of the dataset without features 1" in result.stderr
    (source / "x.npy").write_bytes(b"")
    assert "failed 1" in run(*arguments, code=1).stderr
    np.save(source / "x.npy", CLIPS["clip0"])
    run(*arguments)


def test_other_features_under_the_same_name(source: Path, store: str) -> None:
    arguments = ("import", "d", source, "--name", "net", "--store", store)
    run(*arguments)
    np.save(source / "clip1.npy", CLIPS["clip1"] * 2)
    assert "other features of 1 clip (clip1)" in run(*arguments, code=1).stderr
    assert run(*arguments, "--replace").stdout.startswith("1 clips imported, 3 were there")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["import", "d", "SRC"], "--name"),
        (["import", "d", "SRC", "--name", "net", "--state", "fps"], "'fps' is not of the form key=value"),
        (["import", "d", "SRC", "--name", "net", "--state", "fps=2"], "use --fps"),
        (["import", "d", "SRC", "--name", "net", "--state", "a=1", "--state", "a=2"], "'a' is stated twice"),
        (["import", "d", "SRC", "--name", "net", "--id-list", "nowhere.txt"], "nowhere.txt: no such file"),
        (["import", "d", "SRC", "--name", "net", "--fps", "1", "--timestamps", "SRC"], "one only"),
        (["import", "d", "nowhere", "--name", "net"], "nowhere: no such file or folder"),
        (["import", "a/b", "SRC", "--name", "net"], "'a/b' is not the name of a folder"),
        (["export", "d/none", "out", "--to", "npy"], "no features of a dataset 'd'"),
        (["export", "d", "out", "--to", "csv"], "'csv' is not one of"),
        (["convert", "d", "--to", "hdf5"], "no features of a dataset 'd'"),
        (["convert", "d"], "--to"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(source: Path, store: str, arguments: list[str], says: str) -> None:
    named = [str(source) if argument == "SRC" else argument for argument in arguments]
    assert says in run(*named, "--store", store, code=2).stderr
    assert not Path(store).exists()


def test_a_taken_destination(tmp_path: Path, source: Path, store: str) -> None:
    run("import", "d", source, "--name", "net", "--store", store)
    assert "name another destination" in run("export", "d", source, "--to", "npy", "--store", store, code=2).stderr


def test_damage_is_told_by_convert_and_export(tmp_path: Path, source: Path, store: str) -> None:
    run("import", "d", source, "--name", "net", "--store", store)
    (path,) = Path(store).glob("d/features/*/shards/*.zarr/values/c.0.0")
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    result = run("convert", "d", "--to", "hdf5", "--store", store, code=1)
    assert "damaged: " in result.stderr
    assert "1 damaged shards are left as they are" in result.stderr
    assert (
        "not what was written" in run("export", "d", tmp_path / "out", "--to", "npy", "--store", store, code=1).stderr
    )


def test_progress_is_told_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    rare, often = Progress("import"), Progress("convert", "shards", every=0.0)
    for done in (1, 2):
        rare(done, 2000)
        often(done, 2000)
    assert capsys.readouterr().err == "convert: 1 of 2,000 shards done\nconvert: 2 of 2,000 shards done\n"
