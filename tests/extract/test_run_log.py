"""The log of a run: in the feature set, complete up to the moment of a kill, and never a reason to stop."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from supportset.extract.progress import run_log
from supportset.extract.progress.run_log import RunLog
from supportset.store.errors import SupportsetError
from supportset.store.files import Parts
from supportset.store.maintain.verify import verify
from tests.extract.fakes import MeanColour, dataset_of
from tests.extract.films import write_video
from tests.extract.runs import extract_with


def events(path: str | Path) -> list[dict[str, Any]]:
    (file,) = Path(path).glob("log/*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_line_is_there_when_it_is_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write("one", name="a\udcffb", path=Path("x"))
    assert [event["event"] for event in events(tmp_path)] == ["one"]
    log.write("two")
    first, second = events(tmp_path)
    assert (first["name"], first["path"], second["event"]) == ("a\udcffb", "x", "two")
    assert first["time"] <= second["time"]
    log.close()
    log.write("late")
    assert len(events(tmp_path)) == 2


def test_a_disk_that_refuses_stops_only_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file in the way")
    told: list[str] = []
    log = RunLog(tmp_path)
    log.tell = told.append
    log.write("one")
    log.write("two")
    log.close()
    assert len(told) == 1
    assert told[0].endswith("the run continues without a log")


class WholeFiles:
    """A storage that takes whole files only."""

    def __init__(self) -> None:
        self.puts: list[bytes] = []
        self.full = False

    def child(self, name: str) -> WholeFiles:
        assert name == "log"
        return self

    def put(self, files: Mapping[str, Parts], *, replace: bool = True) -> bool:
        if self.full:
            raise SupportsetError("bucket: is full")
        (parts,) = files.values()
        self.puts.append(b"".join(parts))
        return True


def test_a_remote_store_gets_the_log_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    remote, told = WholeFiles(), list[str]()
    monkeypatch.setattr(run_log, "open_folder", lambda path: remote)
    log = RunLog("somewhere")
    log.tell = told.append
    log.write("one")
    assert remote.puts == []
    monkeypatch.setattr(run_log, "_UPLOAD_SECONDS", 0.0)
    log.write("two")
    assert [len(put.splitlines()) for put in remote.puts] == [2]
    monkeypatch.setattr(run_log, "_UPLOAD_SECONDS", 300.0)
    log.write("three")
    log.close()
    assert [json.loads(line)["event"] for line in remote.puts[-1].splitlines()] == ["one", "two", "three"]
    remote.full = True
    broken = RunLog("somewhere")
    broken.tell = told.append
    broken.write("one")
    broken.close()
    assert told == ["bucket: is full; this run leaves no log"]


def run(tmp_path: Path, films: Mapping[str, str | None], **options: Any) -> Any:
    dataset = dataset_of(tmp_path / "features", films)
    options = {"workers": 1, "batch_size": 4, "device": "cpu", "progress": False} | options
    return extract_with(dataset, tmp_path / "features", tmp_path / "videos", MeanColour(), **options)


@pytest.fixture
def films(tmp_path: Path) -> dict[str, str | None]:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "good.mp4", 60)
    cut = write_video(videos / "cut.mkv", 75, size=(160, 120))
    os.truncate(cut, cut.stat().st_size // 2)
    (videos / "text.mp4").write_text("words")
    return {"good": "good.mp4", "cut": "cut.mkv", "text": "text.mp4", "gone": "gone.mp4"}


def test_a_run_says_what_it_was_and_how_it_ended(tmp_path: Path, films: dict[str, str | None]) -> None:
    summary = run(tmp_path, films)
    start, pipeline, *clips, end = events(summary.path)
    assert [event["event"] for event in (start, pipeline, end)] == ["start", "pipeline", "end"]
    assert (start["clips"], start["absent"], start["dataset"]) == (3, 1, "films")
    assert start["recipe"]["backbone"] == "fake:mean"
    assert start["provenance"]["device"] == "cpu"
    assert start["command"] == run_log.command_line() != ""
    assert (pipeline["workers"], pipeline["batch_size"], pipeline["device"]) == (1, 4, "cpu")
    assert {event["clip_id"]: event["status"] for event in clips} == {"cut": "damaged", "text": "unreadable"}
    assert all(event["event"] == "clip" and event["message"] for event in clips)
    assert (end["outcome"], end["done"], end["status"]["ok"]) == ("finished", 3, 1)
    assert end["spent"]["starting"] > 0
    assert sum(end["spent"].values()) - end["spent"]["room"] <= end["seconds"]
    assert not verify(summary.path).problems
    run(tmp_path, films)
    assert len(list(Path(summary.path).glob("log/*"))) == 1, "nothing to do, nothing to say"


def test_a_run_that_fails_says_why(tmp_path: Path, films: dict[str, str | None]) -> None:
    with pytest.raises(SupportsetError):
        run(tmp_path, films, on_error="stop")
    (path,) = (tmp_path / "features" / "films" / "features").iterdir()
    end = events(path)[-1]
    assert (end["event"], end["outcome"]) == ("end", "failed")
    assert "--on-error skip" in end["message"]
