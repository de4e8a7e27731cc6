"""A folder of videos kept in the store: what is new is found, half-copied files wait, what is gone is dropped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supportset.search.ingest import Ingest
from supportset.search.ingest.messages import Order
from supportset.search.searcher import Searcher
from supportset.search.zero_shot import open_zero_shot
from supportset.store.read.catalog import locate_feature_set
from tests.extract.films import write_video
from tests.extract.pairs import save_open_clip

pytestmark = pytest.mark.slow
SECONDS = 200.0  # for what takes two on a machine that is not busy


def wait_for(what: Callable[[], Any], ingest: Ingest) -> Any:
    """Wait until something holds; show what the ingest says if it never does."""
    end = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < end, ingest.status()
        time.sleep(0.05)
    return found


class Kept:
    """A folder, its store, and the ingest between them."""

    def __init__(self, root: Path, pair: Path, **options: Any) -> None:
        self.videos, self.store = root / "videos", root / "store"
        self.videos.mkdir(exist_ok=True)
        self.refreshed: list[str] = []
        self._opened, self._found = 0, set[str]()
        order = Order(str(self.videos), str(self.store), "films", f"open_clip:{pair}", "cpu")
        self.ingest = Ingest(order, self.refreshed.append, **{"settle_seconds": 0.3} | options)

    def searched(self) -> set[str]:
        """The clips that a search looks through, as a server opens them when it is told to."""
        if (told := len(self.refreshed)) > self._opened:
            opened = Searcher(open_zero_shot(f"films/{self.refreshed[-1]}", self.store, device="cpu"))
            self._opened, self._found = told, set(opened.clip_ids)
        return self._found

    def rows(self, path: str) -> list[dict[str, Any]]:
        """The rows of a file in the index."""
        rows = locate_feature_set(self.store, "films", "video").open().rows()
        return [row for row in rows.to_pylist() if row["source_path"] == path]

    def wait(self, what: Callable[[], Any]) -> Any:
        return wait_for(what, self.ingest)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair") / "tiny"
    save_open_clip(folder)
    return folder


@pytest.fixture(scope="module")
def kept(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """An ingest that runs, on a folder with one video."""
    root = tmp_path_factory.mktemp("kept")
    (root / "videos" / "trip").mkdir(parents=True)
    write_video(root / "videos" / "trip" / "first.mp4", 30)
    kept = Kept(root, pair)
    with kept.ingest:
        yield kept


def test_what_is_there_is_found(kept: Kept) -> None:
    kept.wait(lambda: "trip/first" in kept.searched())
    status = kept.wait(lambda: (told := kept.ingest.status())["phase"] == "idle" and told)
    assert status["clips"] == status["done"] >= 1
    assert status["error"] is None


def test_a_new_file_is_found(kept: Kept) -> None:
    write_video(kept.videos / "added.mp4", 31)
    kept.wait(lambda: "added" in kept.searched())


def test_a_file_that_is_still_copied_waits_until_it_is_whole(kept: Kept, tmp_path: Path) -> None:
    content = write_video(tmp_path / "slow.mp4", 100, size=(320, 240)).read_bytes()
    half = len(content) // 2
    with open(kept.videos / "slow.mp4", "wb") as file:
        file.write(content[:half])
        file.flush()
        kept.wait(lambda: "slow.mp4" in kept.ingest.status()["incomplete"])
        assert "slow" not in kept.searched()
        assert kept.rows("slow.mp4") == []
        file.write(content[half:])
    kept.wait(lambda: "slow" in kept.searched())
    (row,) = kept.rows("slow.mp4")
    assert (row["status"], row["source_size"]) == ("ok", len(content))


def test_a_file_whose_space_is_taken_before_its_content_comes_is_tried_again(kept: Kept, tmp_path: Path) -> None:
    content = write_video(tmp_path / "later.mp4", 33).read_bytes()
    place = kept.videos / "later.mp4"
    place.write_bytes(bytes(len(content)))
    failed = kept.wait(lambda: [f for f in kept.ingest.status()["failures"] if f["file"] == "later.mp4"])
    assert failed[0]["status"] == "unreadable"
    place.write_bytes(content)
    kept.wait(lambda: "later" in kept.searched())
    kept.wait(lambda: not [f for f in kept.ingest.status()["failures"] if f["file"] == "later.mp4"])


def test_a_removed_file_is_dropped(kept: Kept) -> None:
    place = write_video(kept.videos / "short-lived.mp4", 34)
    kept.wait(lambda: "short-lived" in kept.searched())
    place.unlink()
    kept.wait(lambda: "short-lived" not in kept.searched())


def test_a_renamed_file_keeps_its_features(kept: Kept) -> None:
    place = write_video(kept.videos / "before.mp4", 35)
    kept.wait(lambda: "before" in kept.searched())
    place.rename(kept.videos / "trip" / "after.mp4")
    kept.wait(lambda: {"before", "trip/after"} & kept.searched() == {"trip/after"})
    assert any("take over the features" in line for line in kept.ingest.status()["log"])


def test_files_that_are_no_videos_and_hidden_ones_are_left_alone(kept: Kept) -> None:
    write_video(kept.videos / ".hidden.mp4", 36)
    (kept.videos / "film.mp4.crdownload").write_bytes(b"\0\0\0\x20ftypisom" + bytes(50))
    (kept.videos / "notes.txt").write_text("seen")
    write_video(kept.videos / "beside.mp4", 37)
    kept.wait(lambda: "beside" in kept.searched())
    assert not [clip for clip in kept.searched() if "hidden" in clip or "film" in clip or "notes" in clip]


def test_a_process_that_dies_without_work_is_replaced_when_there_is_some(kept: Kept) -> None:
    kept.wait(lambda: kept.ingest.status()["phase"] == "idle" and kept.ingest.pid)
    pid = kept.ingest.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    kept.wait(lambda: kept.ingest.pid is None)
    write_video(kept.videos / "afterwards.mp4", 38)
    kept.wait(lambda: "afterwards" in kept.searched())
    assert kept.ingest.status()["restarts"] == 0


def test_a_killed_process_is_started_again_and_a_stop_is_resumed(pair: Path, tmp_path: Path) -> None:
    kept = Kept(tmp_path, pair)
    for number in range(3):
        write_video(kept.videos / f"{number}.mp4", 30)
    with kept.ingest:
        pid = kept.wait(lambda: kept.ingest.pid)
        os.kill(pid, signal.SIGKILL)
        kept.wait(lambda: kept.ingest.status()["restarts"] == 1)
        told = kept.ingest.status()
        assert "killed by SIGKILL" in (told["error"] or told["message"])
        kept.wait(lambda: kept.searched() == {"0", "1", "2"})
        pid = kept.ingest.pid
        assert kept.ingest.status()["error"] is None
    assert not Path(f"/proc/{pid}").exists()  # it ended before the server
    again = Kept(tmp_path, pair)
    with again.ingest:
        again.wait(lambda: again.ingest.status()["phase"] == "idle")
        assert again.searched() == {"0", "1", "2"}
        assert not any("to do" in line for line in again.ingest.status()["log"])  # nothing was extracted again


def test_an_encoder_that_cannot_be_loaded_and_an_empty_folder_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    said: list[str] = []
    videos = tmp_path / "videos"
    videos.mkdir()
    order = Order(str(videos), str(tmp_path / "store"), "films", "open_clip:ViT-B-32/laion2b_s34b_b79k", "cpu")
    with Ingest(order, tell=said.append, settle_seconds=0.1) as ingest:
        wait_for(lambda: "no video or image yet" in ingest.status()["message"], ingest)
        assert ingest.status()["phase"] == "waiting"
        write_video(videos / "a.mp4", 30)
        message = wait_for(lambda: (m := ingest.status()["message"]) and "weights" in m and m, ingest)
    assert "download them" in message
    assert "--encoder" in message
    assert "\n" not in message
    assert f"videos: {message}" in said
