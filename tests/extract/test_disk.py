"""What a run will need on the disk: estimated from durations, told, and refused above a limit."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from supportset.commands.extract import extract_command
from supportset.extract import disk
from supportset.extract.decode.sampling import Sampling
from supportset.store.errors import UsageError
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import MeanColour, MeanOfRows, dataset_of
from tests.extract.films import write_video
from tests.extract.runs import extract_with


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(4):
        write_video(folder / f"{i}.mp4", 50)  # two seconds each
    return folder


def run(tmp_path: Path, backbone: MeanColour, **options: object) -> FeatureSet:
    dataset = dataset_of(tmp_path / "features", {f"c{i}": f"{i}.mp4" for i in range(4)}, c3=(0.5, 1.5))
    options = {"sampling": Sampling(fps=5.0), "workers": 1, "device": "cpu", "progress": False} | options
    summary = extract_with(dataset, tmp_path / "features", tmp_path / "videos", backbone, **options)  # type: ignore[arg-type]
    return FeatureSet.open(summary.path)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [MeanColour(), MeanOfRows()], ids=["vector", "tokens"])
def test_the_estimate_is_what_is_stored(
    backbone: MeanColour, tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_SMALL", 0)
    told: list[disk.DiskUse] = []
    monkeypatch.setattr("supportset.extract.run.check_disk", lambda use, *rest: told.append(use))
    values, _ = run(tmp_path, backbone, dtype="float16").read([f"c{i}" for i in range(4)])
    [use] = told
    assert use.known
    assert use.bytes == values.nbytes


@pytest.mark.slow
def test_too_much_is_refused_before_anything_is_written(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.rglob("*"))
    most = disk.DiskUse(4, 512, 1, 3, 2, known=False).bytes
    with pytest.raises(UsageError, match=r"at most 12\.3 kB \(4 clips x 512 steps x 3 numbers x 2 bytes\), more than"):
        run(tmp_path, MeanColour(), max_disk=most - 1)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=most - 1))
    with pytest.raises(UsageError, match=r"but 12\.3 kB are free there: use another --store.* --max-disk SIZE starts"):
        run(tmp_path, MeanColour())
    written = set(tmp_path.rglob("*")) - set(before)
    assert not any("shards" in path.name or path.name == "card.json" for path in written)
    assert run(tmp_path, MeanColour(), max_disk=most).clip_ids


def test_files_that_cannot_be_opened_count_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    os.mkfifo(tmp_path / "pipe")
    film = write_video(tmp_path / "film.mp4", 25)
    files = [tmp_path / "text.mp4", film, tmp_path / "pipe", tmp_path / "nowhere"]
    assert disk.durations(files) == [None, 1.0, None, None]


def test_the_option_takes_a_size() -> None:
    for given in ("5", "0GB", "many"):
        result = CliRunner().invoke(extract_command, ["folder", "--max-disk", given])
        assert result.exit_code == 2
        assert "is not a size: write it as 200GB, 500MB or 2TB" in result.output
