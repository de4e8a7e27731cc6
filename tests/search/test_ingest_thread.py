"""The thread of the ingest with a process that the test plays: when it asks for what, and what it reports."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supportset.search.ingest import Ingest, Order, ingest, watching

SECONDS = 60.0


class Played:
    """In place of the process: keeps the orders, and sends the events that a test wants."""

    made: list[Played]

    def __init__(self, order: dict[str, Any], events: Callable[[Any, dict[str, Any]], None]) -> None:
        self.orders: list[dict[str, Any]] = []
        self.released, self.pid = False, 1000 + len(self.made)
        self._events = events
        self.made.append(self)

    def send(self, order: dict[str, Any]) -> None:
        self.orders.append(order)

    def release(self) -> None:
        self.released = True

    stop = release

    def tell(self, event: str, **facts: Any) -> None:
        self._events(self, {"event": event, **facts})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Played]:
    monkeypatch.setattr(Played, "made", [], raising=False)
    monkeypatch.setattr(ingest, "Child", Played)
    return Played.made


def wait(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def put(path: Path) -> None:
    path.write_bytes(b"x")
    os.utime(path, (1, 1))


def test_a_folder_without_reports_of_changes_is_looked_through(
    tmp_path: Path, made: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: Any, **options: Any) -> Any:
        raise OSError("no space left on device (os error 28)")  # the limit of inotify

    monkeypatch.setattr(watching, "watch", refuse)
    monkeypatch.setattr(ingest, "BLIND_SECONDS", 0.05)
    with Ingest(Order(str(tmp_path), str(tmp_path / "store"), "films", "fake")) as kept:
        wait(lambda: made and made[0].orders)
        assert made[0].orders[0]["files"] == []
        made[0].tell("round", message="none yet")
        put(tmp_path / "a.mp4")
        order = wait(lambda: len(made[0].orders) == 2 and made[0].orders[1])
        assert order["files"] == ["a.mp4"]
        assert order["gone"] == "mark"
        assert kept.status()["watching"] == "every 0.05 s"


def test_rounds_grow_to_their_aim_and_the_search_is_refreshed(tmp_path: Path, made: list[Played]) -> None:
    for number in range(40):
        put(tmp_path / f"{number}.mp4")
    refreshed: list[str] = []
    with Ingest(Order(str(tmp_path), str(tmp_path / "store"), "films", "fake"), refreshed.append) as kept:
        wait(lambda: made and made[0].orders)
        (child,) = made
        assert (len(child.orders[0]["files"]), child.orders[0]["most"]) == (40, ingest.FIRST_FILES)
        child.tell("plan", clips=40, done=0, features="set")
        for number in range(4):
            child.tell("start", file=f"{number}.mp4")
            child.tell("clip", clip_id=str(number), status="ok", message="", file=f"{number}.mp4")
        wait(lambda: kept.status()["done"] == 4)
        assert kept.status()["current"] == "3.mp4"
        child.tell("round", features="set", clips=40, done=4, left=36, taken=4, counts={"ok": 4})
        wait(lambda: len(child.orders) == 2)
        assert child.orders[1]["most"] == 4 * ingest.FIRST_FILES  # it took no time, but one step at a time
        assert wait(lambda: refreshed) == ["set"]
        failures = [{"file": "7.mp4", "status": "unreadable", "message": "no such codec"}]
        child.tell(
            "round", features="set", clips=40, done=40, left=0, taken=36, counts={"ok": 39, "unreadable": 1},
            failures=failures, failed=1,
        )  # fmt: skip
        wait(lambda: kept.status()["phase"] == "idle")
        assert (kept.status()["failures"], kept.status()["failed"]) == (failures, 1)
        assert len(child.orders) == 2
    assert child.released


def test_a_dead_process_is_replaced_later_and_later(
    tmp_path: Path, made: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BACKOFF_SECONDS", (0.01, 0.02))
    put(tmp_path / "a.mp4")
    put(tmp_path / "b.mp4")
    said: list[str] = []
    with Ingest(Order(str(tmp_path), str(tmp_path / "store"), "films", "fake"), tell=said.append) as kept:
        for number in range(4):
            child = wait(lambda number=number: len(made) == number + 1 and made[number].orders and made[number])
            if number == 0:
                child.tell("start", file="a.mp4")
            child.tell("end", code=-9)
        child = wait(lambda: len(made) == 5 and made[4].orders and made[4])
        # the file that the first one worked on was tried alone twice, and is left; then the other one
        assert [each.orders[0]["only"] for each in made] == [None, ["a.mp4"], ["a.mp4"], None, None]
        assert child.orders[0]["files"] == ["b.mp4"]
        assert kept.status()["restarts"] == 4
        child.tell("round", features="set", clips=1, done=1, taken=1)
        (failure,) = wait(lambda: kept.status()["failures"])
        assert (failure["file"], failure["status"]) == ("a.mp4", "crashed")
    assert [line for line in said if "killed by SIGKILL; it starts again in 0.01 s" in line]
    assert [line for line in said if "in 0.02 s" in line]


def test_what_is_refused_is_told_once_and_tried_again(
    tmp_path: Path, made: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "RETRY_SECONDS", 0.01)
    said: list[str] = []
    with Ingest(Order(str(tmp_path), str(tmp_path / "store"), "films", "fake"), tell=said.append) as kept:
        child = wait(lambda: made and made[0].orders and made[0])
        child.tell("refused", message="the disk is full", encoder=False)
        wait(lambda: len(child.orders) == 2)  # the same process
        child.tell("refused", message="no weights", encoder=True)
        child = wait(lambda: len(made) == 2 and made[1].orders and made[1])  # another one
        child.tell("phase", phase="loading the encoder")
        assert made[0].released
        child.tell("refused", message="no weights", encoder=True)
        wait(lambda: len(made) == 3)
        assert kept.status()["message"] in ("no weights", "")
    assert said.count("videos: no weights") == 1


def test_a_folder_that_is_gone_is_waited_for(
    tmp_path: Path, made: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BLIND_SECONDS", 0.05)
    monkeypatch.setattr(ingest, "RESCAN_SECONDS", 0.05)
    videos = tmp_path / "videos"
    videos.mkdir()
    put(videos / "a.mp4")
    with Ingest(Order(str(videos), str(tmp_path / "store"), "films", "fake")) as kept:
        child = wait(lambda: made and made[0].orders and made[0])
        child.tell("round", features="set", clips=1, done=1, taken=1)
        wait(lambda: kept.status()["phase"] == "idle")
        videos.rename(tmp_path / "away")
        wait(lambda: "no such folder now" in kept.status()["message"])
        (tmp_path / "away").rename(videos)
        wait(lambda: (kept.status()["phase"], kept.status()["message"], kept.status()["error"]) == ("idle", "", None))
        videos.rename(tmp_path / "away")
        wait(lambda: "no such folder now" in kept.status()["message"])
        assert len(child.orders) == 1
        put(tmp_path / "away" / "b.mp4")
        (tmp_path / "away").rename(videos)
        order = wait(lambda: len(child.orders) == 2 and child.orders[1])
        assert order["files"] == ["a.mp4", "b.mp4"]
