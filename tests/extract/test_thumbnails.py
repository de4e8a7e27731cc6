"""Thumbnails show the middle of their steps, change no feature, and reach every clip that has features."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import encode, spread
from supportset.extract.progress.summary import Summary
from supportset.extract.thumbnails import make_thumbnails
from supportset.store.errors import UsageError
from supportset.store.format.dataset import open_dataset
from supportset.store.format.thumbnails import thumbnails_path
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.thumbnails import Thumbnails
from tests.extract.fakes import MeanColour, MeanOfRows
from tests.extract.films import write_video
from tests.extract.runs import Films, run

FPS = Sampling(fps=5.0)


def opened(summary: Summary) -> Thumbnails:
    found = Thumbnails.open(summary.path)
    assert found is not None
    return found


def all_bytes(summary: Summary) -> dict[str, list[bytes]]:
    """Every thumbnail of every clip."""
    found = opened(summary)
    return {
        clip_id: [found.read(clip_id, start) or b"" for start, _ in found.spans(clip_id)]
        for clip_id in sorted(found.clip_ids)
    }


def rows_of(summary: Summary) -> dict[str, dict[str, Any]]:
    rows = FeatureSet.open(thumbnails_path(summary.path)).rows().to_pylist()
    return {row["clip_id"]: row for row in rows}


def pixels(jpeg: bytes | None) -> np.ndarray:
    assert jpeg is not None
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def make(tmp_path: Path, summary: Summary, **options: Any) -> Any:
    dataset = open_dataset(tmp_path / "features", "films")
    options = {"workers": 1, "progress": False} | options
    return make_thumbnails(dataset, summary.path, tmp_path / "videos", **options)


def expected(path: Path, sampling: Sampling, span: tuple[float | None, float | None] = (None, None)) -> list[bytes]:
    """The JPEG of the middle frame of each step."""
    return [encode(step.frames[(len(step.frames) - 1) // 2]) for step in decode_clip(path, *span, sampling)]


@pytest.mark.parametrize("shard_format", ["zarr", "hdf5"])
def test_thumbnails_of_every_step(tmp_path: Path, videos: Path, films: Films, shard_format: str) -> None:
    summary = run(tmp_path, films, sampling=FPS, thumbnails=60, shard_format=shard_format)
    stored = FeatureSet.open(summary.path)
    found = opened(summary)
    assert sorted(found.clip_ids) == sorted(films)
    for clip, file in films.items():
        assert np.array_equal(found.spans(clip), stored.read_timestamps([clip]))
        assert all_bytes(summary)[clip] == expected(videos / str(file), FPS)
    columns = ["clip_id", "status", "source_path", "source_size", "source_mtime_ns", "source_hash"]
    rows, of_features = (FeatureSet.open(each).rows().select(columns) for each in (found.path, summary.path))
    assert rows.sort_by("clip_id") == of_features.sort_by("clip_id")
    assert not verify(summary.path).problems


@pytest.mark.parametrize("window", [1, 4])
def test_features_are_the_same_without(tmp_path: Path, videos: Path, films: Films, window: int) -> None:
    with_them, without = tmp_path / "with", tmp_path / "without"
    for place, thumbnails in ((with_them, 3), (without, 0)):
        shutil.copytree(videos, place / "videos")
        run(place, films, MeanColour(window), sampling=Sampling(fps=5.0, stride=2 if window > 1 else None),
            thumbnails=thumbnails)  # fmt: skip
    first, second = (
        FeatureSet.open(next((each / "features/films/features").iterdir())) for each in (with_them, without)
    )
    for clip in films:
        assert first.checksums([clip]) == second.checksums([clip])
        assert first.checksums([clip], "timestamps") == second.checksums([clip], "timestamps")
    assert Thumbnails.open(second.path) is None


def test_window_shows_its_middle_frame(tmp_path: Path, videos: Path) -> None:
    sampling = Sampling(fps=5.0, window=4, stride=3)
    summary = run(tmp_path, {"a": "film3.mp4"}, MeanColour(4), sampling=sampling, thumbnails=60)
    assert all_bytes(summary) == {"a": expected(videos / "film3.mp4", sampling)}


def test_at_most_so_many_evenly_spread(tmp_path: Path, videos: Path) -> None:
    summary = run(tmp_path, {"a": "film4.mp4", "b": "film0.mp4"}, sampling=FPS, thumbnails=4)
    steps = len(FeatureSet.open(summary.path).read_timestamps(["a"]))
    assert (steps, len(opened(summary).spans("b"))) == (19, 3)
    assert opened(summary).spans("a")[:, 0].tolist() == pytest.approx([k / 5 for k in spread(19, 4)])
    assert spread(19, 4) == [2, 7, 11, 16]


def test_vectors_of_a_step_share_a_thumbnail(tmp_path: Path, videos: Path) -> None:
    summary = run(tmp_path, {"a": "film2.mp4"}, MeanOfRows(), sampling=FPS, thumbnails=60)
    assert all_bytes(summary) == {"a": expected(videos / "film2.mp4", FPS)}


@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((640, 360), (160, 90)),
        ((1080, 1920), (135, 240)),
        ((64, 48), (64, 48)),
        ((4000, 3), (160, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_size(size: tuple[int, int], small: tuple[int, int]) -> None:
    picture = np.full((size[1], size[0], 3), (200, 100, 50), np.uint8)
    before = picture.copy()
    made = pixels(encode(picture))
    assert made.shape[1::-1] == small
    assert np.abs(made - (200, 100, 50)).max() < 4
    assert np.array_equal(picture, before)


def test_rotated_film_is_upright(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 30, size=(64, 48), rotation=90)
    summary = run(tmp_path, {"a": "a.mp4"}, thumbnails=60)
    picture = pixels(opened(summary).read("a"))
    assert picture.shape == (64, 48, 3)
    assert picture[4, -4, 0] > 200 > 100 > picture[4, -4, 1], "the red corner is at the top right"


def test_clips_of_one_file(tmp_path: Path, videos: Path) -> None:
    films: Films = {"a": "film4.mp4", "b": "film4.mp4", "c": "film4.mp4"}
    spans = {"a": (0.0, 2.0), "b": (1.0, 3.0), "c": (1.5, 3.5)}
    summary = run(tmp_path, films, spans=spans, sampling=FPS, thumbnails=60)
    assert all_bytes(summary) == {clip: expected(videos / "film4.mp4", FPS, spans[clip]) for clip in films}


def test_damaged_clip_has_thumbnails_of_what_is_left(tmp_path: Path, videos: Path) -> None:
    whole = write_video(videos / "long.mkv", 100, gop=10)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    (videos / "words.mp4").write_text("words")
    films: Films = {"cut": "long.mkv", "words": "words.mp4", "none": None}
    summary = run(tmp_path, films, sampling=FPS, thumbnails=60)
    assert summary.status == {"damaged": 1, "missing": 1, "unreadable": 1}
    assert list(rows_of(summary)) == ["cut"]
    assert rows_of(summary)["cut"]["status"] == "damaged"
    assert np.array_equal(opened(summary).spans("cut"), FeatureSet.open(summary.path).read_timestamps(["cut"]))


def test_dropped_clip_has_none(tmp_path: Path, videos: Path) -> None:
    whole = write_video(videos / "long.mkv", 100, gop=10)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    summary = run(tmp_path, {"cut": "long.mkv", "a": "film0.mp4"}, thumbnails=60, on_damage="drop")
    assert sorted(opened(summary).clip_ids) == ["a"]


def test_replaced_file_gets_new_ones(tmp_path: Path, videos: Path, films: Films) -> None:
    first = all_bytes(run(tmp_path, films, sampling=FPS, thumbnails=60))
    shutil.copyfile(videos / "film4.mp4", videos / "film1.mp4")
    summary = run(tmp_path, films, sampling=FPS, thumbnails=60)
    second = all_bytes(summary)
    assert second["c1"] == expected(videos / "film4.mp4", FPS) != first["c1"]
    assert {clip: second[clip] for clip in films if clip != "c1"} == {
        clip: first[clip] for clip in films if clip != "c1"
    }
    assert rows_of(summary)["c1"]["generation"] == 1


def test_made_later_they_are_the_same(tmp_path: Path, videos: Path, films: Films) -> None:
    taken = all_bytes(run(tmp_path, films, sampling=FPS, thumbnails=5))
    again = tmp_path / "again"
    shutil.copytree(videos, again / "videos")
    summary = run(again, films, sampling=FPS)
    assert Thumbnails.open(summary.path) is None
    made = make(again, summary, most=5)
    assert (made.made, made.done, made.failures) == (6, 0, [])
    assert all_bytes(summary) == taken
    assert made.pictures == sum(map(len, taken.values()))
    made = make(again, summary, most=5)
    assert (made.made, made.done) == (0, 6)


def test_made_later_for_windows_they_are_the_same(tmp_path: Path, videos: Path) -> None:
    sampling = Sampling(fps=5.0, window=4, stride=3)
    summary = run(tmp_path, {"a": "film3.mp4"}, MeanColour(4), sampling=sampling)
    make(tmp_path, summary)
    assert all_bytes(summary) == {"a": expected(videos / "film3.mp4", sampling)}


def test_extraction_makes_those_that_an_earlier_run_did_not(tmp_path: Path, videos: Path, films: Films) -> None:
    some = dict(list(films.items())[:3])
    run(tmp_path, some, sampling=FPS)
    backbone = MeanColour()
    summary = run(tmp_path, films, backbone, sampling=FPS, thumbnails=60)
    assert summary.thumbnails is not None
    assert summary.thumbnails["made"] == 3
    assert sorted(all_bytes(summary)) == sorted(films)
    stored = FeatureSet.open(summary.path)
    assert sum(backbone.batches) == int(stored.lengths([clip for clip in films if clip not in some]).sum())
    assert run(tmp_path, films, sampling=FPS, thumbnails=60).thumbnails is None


def test_later_run_tells_what_it_cannot_make(tmp_path: Path, videos: Path, films: Films) -> None:
    summary = run(tmp_path, films, sampling=FPS)
    (videos / "film0.mp4").unlink()
    shutil.copyfile(videos / "film4.mp4", videos / "film1.mp4")
    made = make(tmp_path, summary)
    assert (made.missing, made.changed, made.made) == (["c0"], ["c1"], 4)
    assert sorted(opened(summary).clip_ids) == ["c2", "c3", "c4", "still"]


def test_failure_is_recorded_and_not_repeated(tmp_path: Path, videos: Path, films: Films) -> None:
    summary = run(tmp_path, films, sampling=FPS)
    file = videos / "film2.mp4"
    stamp, content = file.stat(), file.read_bytes()
    file.write_bytes(bytes(len(content)))  # damaged on the disk: same size, same time
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    made = make(tmp_path, summary)
    ((failure,), rows) = made.failures, rows_of(summary)
    assert (failure.clip_id, failure.status, failure.kept) == ("c2", "unreadable", False)
    assert (rows["c2"]["status"], made.made) == ("unreadable", 5)
    assert make(tmp_path, summary).done == 6
    file.write_bytes(content)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert make(tmp_path, summary, retry_failed=True).made == 1
    assert sorted(opened(summary).clip_ids) == sorted(films)


def test_touched_file_keeps_its_thumbnails(
    tmp_path: Path, videos: Path, films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = all_bytes(run(tmp_path, films, sampling=FPS, thumbnails=60))
    os.utime(videos / "film3.mp4")
    backbone = MeanColour()
    summary = run(tmp_path, films, backbone, sampling=FPS, thumbnails=60)
    assert (backbone.batches, summary.thumbnails) == ([], None)
    assert all_bytes(summary) == first
    assert rows_of(summary)["c3"]["source_mtime_ns"] == (videos / "film3.mp4").stat().st_mtime_ns


@pytest.mark.parametrize("wrong", [{"most": 0}, {"workers": 0}])
def test_impossible_numbers(tmp_path: Path, videos: Path, films: Films, wrong: dict[str, int]) -> None:
    summary = run(tmp_path, {"still": "still.png"})
    with pytest.raises(UsageError, match="must be at least 1"):
        make(tmp_path, summary, **wrong)
    with pytest.raises(UsageError, match="thumbnails=-1"):
        run(tmp_path, films, thumbnails=-1)


def test_folder_without_videos(tmp_path: Path, videos: Path) -> None:
    summary = run(tmp_path, {"still": "still.png"})
    shutil.rmtree(videos)
    with pytest.raises(UsageError, match="no such folder of videos"):
        make(tmp_path, summary)
    assert run(tmp_path, {"still": "still.png"}, thumbnails=60).thumbnails is None
