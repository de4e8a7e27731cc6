"""The verbs on a store in S3, as a user types them: the same as on a local one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from supportset.commands.main import cli
from supportset.store.files import open_folder, store_path
from supportset.store.format.dataset import write_dataset
from supportset.store.read.catalog import find_feature_set, list_feature_sets
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from tests.extract.fakes import MeanColour, dataset_of
from tests.extract.films import write_video
from tests.extract.runs import extract_with
from tests.s3_server import S3Server
from tests.store.samples import clips, recipe, write
from tests.train.small_store import config, plant

pytestmark = pytest.mark.slow

CLIPS = {f"clip{i}": np.random.default_rng(i).standard_normal((i + 1, 4)).astype(np.float16) for i in range(4)}


def run(*words: Any, code: int = 0) -> Result:
    """Run a command; anything but the expected exit, and any traceback, fails."""
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code:
        assert result.stderr.rstrip().splitlines()[-1].startswith("Error: ")
    return result


def told(*words: Any) -> Any:
    return json.loads(run(*words, "--json").stdout)


def test_a_set_from_its_import_to_its_end(tmp_path: Path, s3: str) -> None:
    at = ("--store", s3)
    (tmp_path / "src").mkdir()
    for clip_id, array in CLIPS.items():
        np.save(tmp_path / "src" / f"{clip_id}.npy", array)
    rows = [{"clip_id": clip_id} for clip_id in CLIPS]
    write_dataset(s3, "d", clips=rows, captions=[], splits=[], protocols={}, sources=[])
    assert run("store", "ls", *at).stdout == "d: no features yet\n"
    arguments = ("store", "import", "d", tmp_path / "src", "--name", "net", *at)
    assert run(*arguments, "--strict").stdout.startswith("4 clips imported in ")
    assert run(*arguments).stdout.startswith("0 clips imported, 4 were there")
    (name,) = [entry["name"] for entry in told("store", "ls", *at)["d"]]
    shown = told("store", "show", "d/net", *at)
    assert (shown["path"], shown["clips"]) == (f"{s3}/d/features/{name}", 4)
    assert told("store", "verify", *at)["problems"] == 0
    assert "1 shards with 4 clips converted to hdf5" in run("store", "convert", "d/net", "--to", "hdf5", *at).stdout
    np.save(tmp_path / "src" / "clip9.npy", CLIPS["clip0"])
    assert run(*arguments, "--format", "hdf5").stdout.startswith("1 clips imported, 4 were there")
    assert told("store", "compact", "d/net", *at)["shards_after"] == 1
    assert told("store", "verify", "d/net", *at)["sets"][0]["clips"] == 5
    run("store", "export", "d/net", tmp_path / "out", "--to", "npy", *at)
    for clip_id, array in CLIPS.items():
        assert np.load(tmp_path / "out" / f"{clip_id}.npy").tobytes() == array.tobytes()
    assert "deleted" in run("store", "rm", "d/net", "--yes", *at).stdout
    assert told("store", "ls", *at) == {"d": []}
    assert "note" not in run("store", "rm", "d", "--dataset", "--yes", *at).stderr
    assert open_folder(s3).names() == []


def test_exporting_to_a_url_is_refused_in_one_line(tmp_path: Path, s3: str) -> None:
    write(store_path(s3) / "d" / "features" / recipe().folder, clips(1))
    result = run("store", "export", "d", f"{s3}/out", "--to", "npy", "--store", s3, code=2)
    assert "is not a local path: name a local folder" in result.stderr
    result = run("store", "import", "d", f"{s3}/out", "--name", "x", "--store", s3, code=2)
    assert "copy it to a local folder first" in result.stderr
    assert not Path("s3:").exists()


def test_damage_is_found_and_dropped(s3: str) -> None:
    path = store_path(s3) / "d" / "features" / recipe().folder
    write(path, clips(3))
    folder = open_folder(path / "shards")
    (file,) = folder.glob("*/values/c.0.0")
    content = bytearray(folder.read(file) or b"")
    content[0] ^= 1
    open_folder(path / "shards").child(file.rpartition("/")[0]).put({"c.0.0": [bytes(content)]})
    assert "clip0" in run("store", "verify", "--store", s3, code=1).stderr
    run("store", "verify", "--drop-damaged", "--store", s3)
    run("store", "verify", "--store", s3)
    assert find_feature_set(s3, "d").clip_ids == ["clip1", "clip2"]


@pytest.mark.parametrize(
    ("store", "code", "says"),
    [
        ("s3://no-such-bucket/x", 1, "bucket does not exist"),
        ("gs://bucket/x", 2, "pip install gcsfs"),
        ("s3://tests/a?b", 2, "cannot contain '?'"),
    ],
)
def test_a_store_that_cannot_be_reached(s3_server: S3Server, store: str, code: int, says: str) -> None:
    for words in (["ls"], ["show", "d/x"], ["verify"], ["compact", "d/x"], ["rm", "d/x", "--yes"]):
        assert says in run("store", *words, "--store", store, code=code).stderr
    assert says in run("train", "configs/demo.toml", "--store", store, code=code).stderr


def test_training_and_evaluation_read_from_s3(s3: str, tmp_path: Path) -> None:
    plant(s3)  # type: ignore[arg-type]
    train(config(optim={"epochs": 1}), s3, tmp_path / "far", device="cpu")
    plant(tmp_path / "store")
    train(config(optim={"epochs": 1}), tmp_path / "store", tmp_path / "near", device="cpu")
    reports = [
        evaluate(tmp_path / name, split="test", store=store, device="cpu")
        for name, store in (("far", s3), ("near", tmp_path / "store"))
    ]
    assert [reports[0][way] for way in ("t2v", "v2t")] == [reports[1][way] for way in ("t2v", "v2t")]


def test_extraction_writes_to_s3_and_goes_on_there(s3: str, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(2):
        write_video(tmp_path / "videos" / f"film{number}.mp4")
    options: dict[str, Any] = {"workers": 1, "batch_size": 4, "device": "cpu", "progress": False, "dtype": "float32"}
    films = {"c0": "film0.mp4", "c1": "gone.mp4"}
    for paths, expected in ((films, {"ok": 1, "missing": 1}), ({**films, "c1": "film1.mp4"}, {"ok": 2})):
        dataset = dataset_of(s3, paths)  # type: ignore[arg-type]
        summary = extract_with(dataset, s3, tmp_path / "videos", MeanColour(), **options)
        assert summary.status == expected
    assert summary.path.startswith(f"{s3}/films/features/")
    (info,) = list_feature_sets(s3, "films")
    assert sorted(info.open().clip_ids) == ["c0", "c1"]
