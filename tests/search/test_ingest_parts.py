"""What the ingest decides by: which files are whole, which disk is missing, what a round does, a folder's name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from supportset.search.ingest import watched
from supportset.search.ingest.backlog import Backlog
from supportset.search.ingest.messages import Order, Result
from supportset.search.ingest.opening import name_of
from supportset.search.ingest.refreshing import Refreshing
from supportset.search.ingest.rounds import EncoderMissing, Rounds
from supportset.search.ingest.watched import DiskMissing, WatchedFolder
from supportset.store.errors import UsageError
from supportset.store.format.dataset import open_dataset
from supportset.store.read.catalog import locate_feature_set
from tests.extract.films import write_video
from tests.extract.pairs import save_open_clip

LONG_AGO = time.time() - 5000


def put(path: Path, content: bytes = b"x", when: float = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (when, when))
    return path


def looked(root: Path, **options: Any) -> WatchedFolder:
    folder = WatchedFolder(root, **options)
    folder.look()
    return folder


def test_files_are_whole_that_have_not_changed_for_a_while(tmp_path: Path) -> None:
    put(tmp_path / "old.mp4")
    put(tmp_path / "new.mp4", when=time.time())
    put(tmp_path / "of-a-wrong-clock.mp4", when=time.time() + 9000)
    folder = looked(tmp_path, settle_seconds=100.0)
    assert folder.whole_in("old.mp4") == 0
    assert 90 < folder.whole_in("new.mp4") <= 100
    assert 90 < folder.whole_in("of-a-wrong-clock.mp4") <= 100
    before = folder.files["of-a-wrong-clock.mp4"].since
    folder.look()
    assert folder.files["of-a-wrong-clock.mp4"].since == before  # it counts from when it was first seen so
    put(tmp_path / "of-a-wrong-clock.mp4", b"more", when=time.time() + 9001)
    assert folder.look_again(["of-a-wrong-clock.mp4"])
    assert folder.files["of-a-wrong-clock.mp4"].since > before
    (tmp_path / "new.mp4").unlink()
    assert not folder.look_again(["new.mp4"])


def test_the_store_other_files_and_hidden_ones_do_not_matter(tmp_path: Path) -> None:
    store = tmp_path / "features"
    for name in ("a.mp4", "notes.txt", ".b.mp4", "features/c.mp4", "captions.csv", "d.mp4.part"):
        put(tmp_path / name)
    folder = looked(tmp_path, ignored=store)
    assert sorted(folder.files) == ["a.mp4", "captions.csv"]
    assert folder.covers(str(tmp_path / "a.mp4"))
    assert not folder.covers(str(store / "x" / "card.json"))
    assert not folder.covers(str(tmp_path / "x" / ".part" / "b.mp4"))


def test_a_lost_disk_is_no_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "videos"
    put(root / "mounted" / "a.mp4")
    put(root / "b.mp4")
    disks = {root: 1, root / "mounted": 2}
    monkeypatch.setattr(watched, "_disk", lambda path: disks[path])
    folder = looked(root)
    (root / "mounted" / "a.mp4").unlink()
    disks[root / "mounted"] = 1  # what is left is the empty folder below the mount
    with pytest.raises(DiskMissing, match=r"mounted/a\.mp4.*nothing is dropped"):
        folder.look()
    assert set(folder.files) == {"mounted/a.mp4", "b.mp4"}
    disks[root / "mounted"] = 2
    folder.look()  # the disk is there, so the file was deleted
    assert set(folder.files) == {"b.mp4"}
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(DiskMissing, match="no such folder now"):
        folder.look()


def test_a_folder_that_is_deleted_with_its_files_is_a_deletion(tmp_path: Path) -> None:
    put(tmp_path / "trip" / "a.mp4")
    folder = looked(tmp_path)
    (tmp_path / "trip" / "a.mp4").unlink()
    (tmp_path / "trip").rmdir()
    folder.look()
    assert folder.files == {}


def test_rounds_follow_the_files_until_nothing_is_left(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        put(tmp_path / name)
    folder = looked(tmp_path)
    backlog = Backlog(folder)
    first = backlog.next()
    assert first is not None
    assert first.files == ["a.mp4", "b.mp4"]
    backlog.finished(first, Result(left=1))
    second = backlog.next()
    assert second is not None
    backlog.finished(second, Result(left=0))
    assert backlog.next() is None
    put(tmp_path / "a.mp4", b"other")
    folder.look()
    third = backlog.next()
    assert third is not None
    backlog.finished(third, Result())
    (tmp_path / "b.mp4").unlink()
    folder.look()
    fourth = backlog.next()
    assert fourth is not None
    assert fourth.files == ["a.mp4"]


def test_a_file_that_ends_early_waits_until_it_changes_or_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = put(tmp_path / "half.mp4", when=time.time() - 60)
    folder = looked(tmp_path)
    backlog = Backlog(folder)
    request = backlog.next()
    assert request is not None
    backlog.finished(request, Result(incomplete=["half.mp4"]))
    assert backlog.next() is None
    assert backlog.incomplete == ["half.mp4"]
    monkeypatch.setattr("supportset.search.ingest.backlog.PATIENCE_SECONDS", 30.0)
    old = backlog.next()
    assert old is not None
    assert old.files == ["half.mp4"]
    monkeypatch.undo()
    put(place, b"whole", when=time.time() - 59)
    folder.look()
    again = backlog.next()
    assert again is not None
    assert again.files == ["half.mp4"]


def test_files_that_a_process_died_with_are_tried_alone_and_given_up(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        put(tmp_path / name)
    folder = looked(tmp_path)
    backlog = Backlog(folder)
    request = backlog.next()
    assert request is not None
    backlog.died(request, ["a.mp4", "b.mp4"])
    both = backlog.next()
    assert both is not None
    assert both.only == ["a.mp4", "b.mp4"]
    backlog.died(both, ["b.mp4"])
    alone = backlog.next()
    assert alone is not None
    assert alone.only == ["a.mp4"]
    backlog.finished(alone, Result())  # it was not this one
    for _ in range(2):
        alone = backlog.next()
        assert alone is not None
        assert alone.only == ["b.mp4"]
        backlog.died(alone, ["b.mp4"])
    rest = backlog.next()
    assert rest is not None
    assert (rest.only, rest.files) == (None, ["a.mp4", "c.mp4"])
    assert list(backlog.given_up) == ["b.mp4"]
    put(tmp_path / "b.mp4", b"other content")
    folder.look()
    again = backlog.next()
    assert again is not None
    assert again.files == ["a.mp4", "b.mp4", "c.mp4"]


@pytest.mark.slow
def test_an_emptied_folder_drops_its_clips_only_if_that_was_seen(tmp_path: Path) -> None:
    videos, pair = tmp_path / "videos", tmp_path / "pair"
    videos.mkdir()
    save_open_clip(pair)
    film = write_video(videos / "a.mp4", 30)
    order = Order(str(videos), str(tmp_path / "store"), "films", f"open_clip:{pair}", "cpu")
    rounds = Rounds(order, lambda event, facts: None)
    done = rounds.round(["a.mp4"], 4, "auto")
    assert (done.taken, done.left, done.counts) == (1, 0, {"ok": 1})
    film.rename(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match=r"the store has 1 of its clips: mount the missing disk"):
        rounds.round([], 4, "auto")
    assert open_dataset(tmp_path / "store", "films").gone == frozenset()
    assert "no video or image yet" in rounds.round([], 4, "mark").message
    assert open_dataset(tmp_path / "store", "films").gone == {"a"}
    (tmp_path / "a.mp4").rename(film)
    back = rounds.round(["a.mp4"], 4, "auto")
    assert (back.taken, back.done, back.gone) == (0, 1, 0)


@pytest.mark.slow
def test_rounds_take_the_newest_first_and_leave_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, pair = tmp_path / "videos", tmp_path / "pair"
    videos.mkdir()
    save_open_clip(pair)
    for number in range(3):
        put(videos / f"{number}.mp4", write_video(tmp_path / "film.mp4", 25 + number).read_bytes(), LONG_AGO + number)
    events: list[tuple[str, dict[str, Any]]] = []
    order = Order(str(videos), str(tmp_path / "store"), "films", f"open_clip:{pair}", "cpu")
    rounds = Rounds(order, lambda event, facts: events.append((event, facts)))
    result = rounds.round(["0.mp4", "1.mp4", "2.mp4"], 2, "auto")
    assert (result.clips, result.done, result.left, result.taken) == (3, 2, 1, 2)
    assert {facts["file"] for event, facts in events if event == "clip"} == {"1.mp4", "2.mp4"}
    assert {facts["file"] for event, facts in events if event == "start"} == {"1.mp4", "2.mp4"}
    found = locate_feature_set(tmp_path / "store", "films", "video")
    assert sorted(found.open().clip_ids) == ["1", "2"]
    assert (found.path / "thumbnails").is_dir()
    assert not (found.path / "log").exists()  # short runs leave none
    monkeypatch.setattr("supportset.search.ingest.rounds.MANY_SHARDS", 1)
    result = rounds.round(["0.mp4"], 2, "mark")  # the others are written again, say: they keep their features
    assert (result.taken, result.gone) == (1, 0)
    assert sorted(found.open().clip_ids) == ["0", "1", "2"]
    for merged in (found.path, found.path / "thumbnails"):
        assert len(list((merged / "shards").glob("*.parquet"))) == 1


def test_an_encoder_without_a_text_tower_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 5)
    order = Order(str(tmp_path), str(tmp_path / "features"), "films", "torchvision:resnet18", "cpu")
    rounds = Rounds(order, lambda event, facts: None)

    class Pooled:
        layer = "input of the last linear layer"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supportset.search.ingest.rounds.load_backbone", lambda name: Pooled())
        with pytest.raises(EncoderMissing, match="no text tower"):
            rounds.round(["a.mp4"], 1, "auto")


def test_a_folder_keeps_its_name_and_does_not_take_that_of_another(tmp_path: Path) -> None:
    from supportset.extract.readers.annotate import read_dataset

    store = str(tmp_path / "store")
    first, second = tmp_path / "a" / "My Vidéos!", tmp_path / "b" / "My Vidéos!"
    for folder, content in ((first, b"one"), (second, b"another")):
        put(folder / f"{content.decode()}.mp4", content)
    assert name_of(first, store) == "My-Vid-os"
    read_dataset("folder", first, name="My-Vid-os").write(store)
    assert name_of(first, store) == "My-Vid-os"
    assert name_of(second, store) == "My-Vid-os-2"
    moved = tmp_path / "c" / "My Vidéos!"
    moved.parent.mkdir()
    first.rename(moved)
    assert name_of(moved, store) == "My-Vid-os"
    empty = tmp_path / "d" / "日本"
    empty.mkdir(parents=True)
    assert name_of(empty, store) == "videos"


def test_requests_to_refresh_are_put_together_and_errors_are_told() -> None:
    called: list[str] = []
    told: list[str] = []

    def refresh(features: str) -> None:
        called.append(features)
        if features == "broken":
            raise OSError("no space")

    refreshing = Refreshing(refresh, told.append)
    refreshing.ask("a")
    refreshing.ask("broken")
    refreshing.start()
    end = time.monotonic() + 60
    while not told:
        assert time.monotonic() < end
        time.sleep(0.01)
    refreshing.stop()
    assert called == ["broken"]
    assert told == ["the search could not be refreshed: no space"]
