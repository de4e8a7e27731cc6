"""Every clip of a run has an outcome, and the outcomes decide the exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from supportset.extract.progress.summary import exit_code
from supportset.extract.work.selection import Clip, Work, plan_work
from supportset.store.errors import SupportsetError
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import MeanColour
from tests.extract.films import write_audio, write_video
from tests.extract.fragile import Fragile
from tests.extract.runs import Films, row, run, statuses

pytestmark = pytest.mark.slow


def test_failures_are_rows_and_only_retried_when_asked(tmp_path: Path, videos: Path, films: Films) -> None:
    (videos / "text.mp4").write_text("words")
    (videos / "empty.mp4").touch()
    write_audio(videos / "sound.mp4")
    films |= {"text": "text.mp4", "empty": "empty.mp4", "sound": "sound.mp4", "late": "film4.mp4"}
    late = {"late": (60.0, 70.0)}
    summary = run(tmp_path, films, spans=late)
    assert summary.status == {"ok": 6, "no_video": 1, "too_short": 1, "unreadable": 2}
    assert row(summary, "empty")["message"] == "the file is empty (0 bytes)"
    assert row(summary, "text")["source_size"] == 5
    again = run(tmp_path, films, spans=late)
    assert row(again, "text")["generation"] == 0
    again = run(tmp_path, films, spans=late, retry_failed=True)
    assert again.status == summary.status
    assert row(again, "text")["generation"] == 1
    assert row(again, "c0")["generation"] == 0


def test_missing_clips_are_looked_for_again(tmp_path: Path, videos: Path, films: Films) -> None:
    films |= {"later": "later.mp4", "never": None}
    first = run(tmp_path, films)
    assert first.status == {"ok": 6, "missing": 2}
    shards = len(list(Path(first.path).glob("shards/*.parquet")))
    run(tmp_path, films)
    assert len(list(Path(first.path).glob("shards/*.parquet"))) == shards, "still missing: nothing new to say"
    write_video(videos / "later.mp4", 30)
    assert run(tmp_path, films).status == {"ok": 7, "missing": 1}


def test_file_that_disappears_during_the_run(
    tmp_path: Path, videos: Path, films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_and_delete(clips: list[Clip], root: Path, *args: Any, **options: Any) -> Work:
        work = plan_work(clips, root, *args, **options)
        (root / "film3.mp4").unlink(missing_ok=True)
        return work

    monkeypatch.setattr("supportset.extract.run.plan_work", plan_and_delete)
    summary = run(tmp_path, films)
    assert summary.status == {"ok": 5, "missing": 1}
    assert row(summary, "c3")["message"] == "the file is not there any more"


@pytest.mark.parametrize(
    ("on_damage", "expected"), [("keep", {"ok": 6, "damaged": 1}), ("drop", {"ok": 6, "damaged": 1})]
)
def test_damage_is_never_quietly_ok(
    tmp_path: Path, videos: Path, films: Films, on_damage: Any, expected: dict[str, int]
) -> None:
    cut = write_video(videos / "cut.mkv", 75, size=(160, 120))
    os.truncate(cut, cut.stat().st_size // 2)
    summary = run(tmp_path, films | {"cut": "cut.mkv"}, on_damage=on_damage)
    assert summary.status == expected
    stored = FeatureSet.open(summary.path)
    assert ("cut" in stored) == (on_damage == "keep")
    assert "frames lost" in row(summary, "cut")["message"]
    assert summary.exit_code == (0 if on_damage == "keep" else 1)


def test_value_that_does_not_fit_the_stored_type_fails_its_clip(tmp_path: Path, videos: Path, films: Films) -> None:
    backbone = MeanColour(scale=65504 / 195)  # only the still's green, 200, is beyond
    summary = run(tmp_path, {"c0": "film0.mp4", "still": "still.png"}, backbone, dtype="float16")
    assert summary.status["overflow"] == 1
    assert statuses(summary) == {"c0": "ok", "still": "overflow"}
    assert run(tmp_path, {"c0": "film0.mp4", "still": "still.png"}, backbone, dtype="float32").status == {"ok": 2}


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_poisonous_files_cost_only_their_clips(tmp_path: Path, videos: Path, films: Films, how: str) -> None:
    Image.new("RGB", (32, 32), (255, 0, 0)).save(videos / "red.png")
    films = {"red1": "red.png"} | films | {"red2": "red.png"}
    summary = run(tmp_path, films, MeanColour(transform=Fragile(how=how)), timeout=0.5)
    status = {"kill": "crashed", "hang": "timeout"}[how]
    assert summary.status == {"ok": 6, status: 2}
    assert statuses(summary)["red1"] == status
    assert summary.exit_code == 1


def test_stop_on_the_first_error(tmp_path: Path, videos: Path, films: Films) -> None:
    (videos / "text.mp4").write_text("words")
    films = {"c3": "film3.mp4", "text": "text.mp4"} | films
    with pytest.raises(SupportsetError, match=r"'text' \(text.mp4\) is unreadable.*--on-error skip"):
        run(tmp_path, films, on_error="stop", workers=1, batch_size=1)
    kept = FeatureSet.open(next((tmp_path / "features" / "films" / "features").iterdir()))
    assert "c3" in kept, "what was complete is stored"
    assert kept.statuses()["unreadable"] == 1
    assert run(tmp_path, films).status == {"ok": 6, "unreadable": 1}


@pytest.mark.parametrize(
    ("statuses", "max_failures", "strict", "code"),
    [
        (["ok"] * 6 + ["unreadable"], 0.05, False, 1),
        (["ok"] * 6 + ["unreadable"], 0.2, False, 0),
        (["ok"] * 6 + ["unreadable"], 0.2, True, 1),
        (["ok"] * 3 + ["crashed"], 0.25, False, 0),
        (["ok"] * 3 + ["crashed"] + ["missing"] * 9, 0.24, False, 1),  # the missing are not present
        (["ok"] * 3 + ["missing"] * 9, 0.0, False, 0),
        (["ok"] * 3 + ["missing"], 1.0, True, 1),
        (["ok"] * 3 + ["damaged and kept"], 0.0, False, 0),
        (["ok"] * 3 + ["damaged and kept"], 0.0, True, 1),
        (["ok"], 0.0, True, 0),
        (["missing"] * 2, 0.0, False, 0),
    ],
)
def test_exit_codes(statuses: list[str], max_failures: float, strict: bool, code: int) -> None:
    lengths = [int(status in ("ok", "damaged and kept")) for status in statuses]
    rows = pa.table({"status": [status.split()[0] for status in statuses], "length": lengths})
    assert exit_code(rows, max_failures, strict) == code


def test_exit_code_of_a_run(tmp_path: Path, videos: Path, films: Films) -> None:
    (videos / "text.mp4").write_text("words")
    films = {"text": "text.mp4", "gone": "gone.mp4"} | films
    assert run(tmp_path, films).exit_code == 1
    assert run(tmp_path, films, max_failures=0.2).exit_code == 0
    assert run(tmp_path, films, max_failures=0.2, strict=True).exit_code == 1
