"""What a person sees: the numbers are right, a terminal gets one live line, everything else lines now and then."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from supportset.extract.progress import progress
from supportset.extract.progress import stage_timing as pace
from supportset.extract.progress.progress import Progress
from supportset.extract.progress.run_log import RunLog
from supportset.extract.progress.stage_timing import Spent


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(pace, "time", clock)
    return clock


def go_on(shown: Progress, clock: Clock, seconds: int, *, frames: int = 20, spent: Spent | None = None) -> None:
    """A clip and some frames a second."""
    for _ in range(seconds):
        clock.now += 1
        shown.clip("ok", "c", "")
        shown.frames(frames)
        shown.spent(spent or Spent(computing=1.0, room=0.9))


def test_rates_and_time_left_are_those_of_the_last_minute(clock: Clock) -> None:
    shown = Progress(3600, quiet=True)
    go_on(shown, clock, 50)
    assert shown.status_line() == "1.0 clips/s, 20 frames/s, 0:59:10 left, the model sets the pace"
    for _ in range(100):
        clock.now += 10
        shown.clip("ok", "c", "")
        shown.frames(20)
        shown.spent(Spent(frames=9.0, computing=1.0))
    assert shown.status_line() == "0.1 clips/s, 2 frames/s, 9:35:00 left, decoding sets the pace"
    shown.clip("unreadable", "bad", "no header")
    assert "1 failed" in shown.status_line()


def test_lines_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100) as shown:
        shown.pipeline(device="cpu", workers=3)
        go_on(shown, clock, 25, spent=Spent(frames=0.6, computing=0.4))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("extract: 10 of 100 clips, 1.0 clips/s")
    assert lines[0].endswith("decoding sets the pace")
    assert lines[1].startswith("extract: 20 of 100 clips")
    assert lines[2].startswith("extract: decoding set the pace: the model waited for frames 60% of the time")
    assert "one more decode worker (4)" in lines[2]
    assert lines[3] == "extract: 25 of 100 clips, 1.0 clips/s, 20 frames/s, 0:01:15 left"
    assert len(lines) == 4


def test_a_terminal_gets_a_live_line(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80))
    with Progress(100) as shown:
        go_on(shown, clock, 30)
        shown.clip("timeout", "bad", "no progress")
        shown._bar.refresh()  # type: ignore[union-attr]  # what a terminal does four times a second
    seen = screen.getvalue()
    assert "31/100" in seen
    assert "1.0 clips/s, 20 frames/s, 1 failed, 0:01:07 left, the model sets the pace" in seen
    assert "bad: timeout: no progress" in seen


def test_the_log_gets_what_is_told(clock: Clock, tmp_path: Path) -> None:
    with Progress(100, quiet=True, log=RunLog(tmp_path)) as shown:
        shown.begin("off we go", dataset="d")
        go_on(shown, clock, 70)
        for i in range(30):
            shown.clip("unreadable", f"bad{i}", "no header")
    (file,) = tmp_path.glob("log/*.jsonl")
    told = [json.loads(line) for line in file.read_text().splitlines()]
    kinds = [event["event"] for event in told]
    assert kinds == ["start", "progress", "progress", *["clip"] * 30, "end"]
    assert (told[1]["done"], told[1]["frames"], told[1]["slowest"]) == (30, 580, "the model")
    assert told[-1]["status"] == {"ok": 70, "unreadable": 30}
    assert told[-1]["spent"]["computing"] == 70.0
    assert told[-1]["pace"].startswith("the model set the pace")
    assert told[-1]["seconds"] == 70.0


def test_a_stopped_run_is_told_apart_from_a_failed_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Progress(1, quiet=True, log=RunLog(tmp_path)):
        raise KeyboardInterrupt
    (file,) = tmp_path.glob("log/*.jsonl")
    assert json.loads(file.read_text())["outcome"] == "stopped"
