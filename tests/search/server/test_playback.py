"""What browsers cannot play is copied or encoded anew, and begins where the answer says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import Future
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from supportset.search.library import Library
from supportset.search.playback.conversions import Bounds, Conversions
from supportset.search.playback.convert import copy_video, encode_part
from supportset.search.playback.facts import read_facts
from supportset.search.playback.process import MediaError, MediaProcess
from supportset.search.server.limits import Limits
from tests.extract.films import picture, write_video
from tests.search.server.conftest import Open

pytestmark = pytest.mark.slow

MANY = Bounds(running=2, waiting=4, seconds=60.0, memory=2**31, kept=2**26)


def shown(path: Path) -> list[tuple[float, np.ndarray]]:
    """All frames of a file: seconds, and pixels."""
    with av.open(str(path)) as file:
        return [(float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]


def is_picture(pixels: np.ndarray, number: int, size: tuple[int, int]) -> bool:
    return float(np.abs(pixels.astype(int) - picture(number, size)).mean()) < 25


@pytest.mark.parametrize(
    ("name", "codec", "how"),
    [
        ("a.mp4", "libx264", "as it is"),
        ("a.webm", "libvpx-vp9", "as it is"),
        ("a.mkv", "libx264", "copied"),
        ("a.ts", "libx264", "copied"),
        ("a.avi", "mpeg4", "converted"),
        ("a.mp4", "libx265", "converted"),
    ],
)
def test_what_a_file_needs(name: str, codec: str, how: str, tmp_path: Path) -> None:
    facts = read_facts(write_video(tmp_path / name, codec=codec))
    assert (facts.kind, facts.how, facts.duration_s) == ("video", how, pytest.approx(2.0, abs=0.1))
    assert facts.media_type == ("video/webm" if name == "a.webm" else "video/mp4")


def test_ten_bit_video_and_sound_that_browsers_lack_need_a_conversion(tmp_path: Path) -> None:
    assert read_facts(write_video(tmp_path / "deep.mp4", pixels="yuv420p10le")).how == "converted"


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_a_copy_has_all_frames_at_their_times(name: str, tmp_path: Path) -> None:
    source = write_video(tmp_path / name, 60, size=(320, 180))
    copy_video(source, tmp_path / "copy.mp4")
    found, expected = shown(tmp_path / "copy.mp4"), shown(source)
    assert [at for at, _ in found] == pytest.approx([at - expected[0][0] for at, _ in expected], abs=2e-3)
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi"])
def test_a_part_begins_at_its_second(name: str, tmp_path: Path) -> None:
    size = (320, 180)
    source = write_video(tmp_path / name, 150, size=size, codec="mpeg4" if name == "a.avi" else "libx264", gop=40)
    encode_part(source, tmp_path / "part.mp4", 2.0, 4.0)
    found = shown(tmp_path / "part.mp4")
    assert [at for at, _ in found] == pytest.approx(np.arange(50) / 25, abs=2e-3)
    for number in (0, 20, 49):
        assert is_picture(found[number][1], 50 + number, size)


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 10, size=(320, 180), codec="libx265", rotation=90)
    encode_part(source, tmp_path / "part.mp4", 0.0, None)
    (_, pixels), *_ = shown(tmp_path / "part.mp4")
    assert is_picture(np.rot90(pixels), 0, (320, 180))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg makes the film with sound")
def test_sound_stays_with_the_picture(tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    tone = "sine=frequency=440:sample_rate=22050"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-f", "lavfi", "-i", tone]
    subprocess.run([*command, "-t", "6", "-c:v", "libx264", "-c:a", "ac3", str(source)], check=True)
    assert read_facts(source).how == "copied"
    copy_video(source, tmp_path / "copy.mp4")
    encode_part(source, tmp_path / "part.mp4", 2.0, 5.0)
    for name, seconds in (("copy.mp4", 6.0), ("part.mp4", 3.0)):
        with av.open(str(tmp_path / name)) as file:
            assert file.streams.audio[0].codec_context.name == "aac"
            times = [float(frame.time or 0) for frame in file.decode(audio=0)]
        assert times[0] == pytest.approx(0.0, abs=0.06)
        assert times[-1] == pytest.approx(seconds, abs=0.1)


def convert(conversions: Conversions, source: Path) -> Future[Path]:
    return conversions.begin(source, "encode", start_s=0.0, end_s=None)[0]


def test_a_file_is_converted_once_for_all_who_wait(tmp_path: Path) -> None:
    source, conversions = write_video(tmp_path / "a.avi", codec="mpeg4"), Conversions(tmp_path / "cache", MANY)
    first, second = convert(conversions, source), convert(conversions, source)
    assert first is second
    assert conversions.kept(source, "encode", start_s=0.0, end_s=None) is None or first.done()
    made = first.result(60)
    assert conversions.kept(source, "encode", start_s=0.0, end_s=None) == made
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.name]
    conversions.close()


def test_what_nobody_waits_for_is_stopped_and_may_be_asked_for_again(tmp_path: Path) -> None:
    source, conversions = write_video(tmp_path / "a.avi", 1500, codec="mpeg4"), Conversions(tmp_path / "cache", MANY)
    future, leave = conversions.begin(source, "encode", start_s=0.0, end_s=None)
    leave()
    with pytest.raises(MediaError):
        future.result(60)
    assert convert(conversions, source).result(60).is_file()
    conversions.close()


def test_the_folder_keeps_its_bound(tmp_path: Path) -> None:
    sources = [write_video(tmp_path / f"{number}.avi", codec="mpeg4") for number in range(3)]
    size = 1
    for kept in (2**26, None):
        conversions = Conversions(tmp_path / f"cache{kept}", MANY if kept else Bounds(1, 4, 60.0, 2**31, 2 * size))
        made = []
        for source in sources:
            made.append(convert(conversions, source).result(60))
            time.sleep(0.02)  # later files are newer
        conversions.close()
        size = max(path.stat().st_size for path in made if path.is_file())
    assert [path.is_file() for path in made] == [False, True, True]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.avi", codec="mpeg4")
    conversions = Conversions(tmp_path / "cache", Bounds(1, 1, 60.0, 2**31, kept=2000))
    with pytest.raises(MediaError, match="File too large") as caught:
        convert(conversions, source).result(60)
    assert caught.value.kind == "full"
    assert list((tmp_path / "cache").iterdir()) == []
    conversions.close()
    (tmp_path / "file").write_bytes(b"")
    blocked = Conversions(tmp_path / "file" / "cache", MANY)
    with pytest.raises(MediaError, match="cannot be written: Not a directory"):
        convert(blocked, source).result(60)
    blocked.close()


def test_a_killed_process_costs_one_request(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4")
    with MediaProcess(2**31, 2**20) as process:
        assert process.ask("facts", 60, path=str(source))["kind"] == "video"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(MediaError, match="died"):
            process.ask("facts", 60, path=str(source))
        assert process.ask("facts", 60, path=str(source))["kind"] == "video"
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(MediaError, match=r"longer than 0\.2 s"):
            process.ask("facts", 0.2, path=str(source))
        assert process.ask("facts", 60, path=str(source))["kind"] == "video"


def test_clips_of_all_kinds_are_played(films: Path, library: Library, open_client: Open) -> None:
    client = open_client()
    videos = films / "others"
    videos.mkdir()
    library.videos = videos
    write_video(videos / "clip0.mp4", 5 * 70, codec="mpeg4", rate=5)  # a long one: in parts
    shutil.copy(write_video(films / "short.mkv", 50), videos / "clip1.mp4")  # Matroska, whatever its name says
    Image.fromarray(picture(3)).save(videos / "clip2.mp4", "TIFF")
    (videos / "clip3.mp4").write_bytes(b"no video at all")
    played = {clip: client.get(f"/api/libraries/films/playback/{clip}?at=40").json() for clip in ("clip0", "clip1")}
    assert (played["clip0"]["offset_s"], played["clip0"]["end_s"], played["clip0"]["how"]) == (30.0, 50.0, "converted")
    assert (played["clip1"]["offset_s"], played["clip1"]["end_s"], played["clip1"]["how"]) == (0.0, None, "copied")
    for clip, frames in (("clip0", 100), ("clip1", 50)):
        answer = client.get(played[clip]["url"])
        assert answer.headers["content-type"] == played[clip]["media_type"] == "video/mp4"
        (films / "answer.mp4").write_bytes(answer.content)
        assert len(shown(films / "answer.mp4")) == frames
    still = client.get("/media/films/video/clip2")
    assert still.headers["content-type"] == "image/jpeg"
    assert still.content[:2] == b"\xff\xd8"
    assert client.get("/media/films/video/clip0?part=99").status_code == 502
    broken = client.get("/media/films/video/clip4")
    assert (broken.status_code, list(broken.json())) == (404, ["error"])


def test_a_file_that_the_folder_cannot_keep_is_not_copied(tmp_path: Path, library: Library, open_client: Open) -> None:
    library.videos = tmp_path
    shutil.copy(write_video(tmp_path / "a.mkv"), tmp_path / "clip0.mp4")
    size = (tmp_path / "clip0.mp4").stat().st_size
    for kept, how in ((4 * size, "copied"), (4 * size - 4, "converted")):
        client = open_client(limits=Limits(cache_bytes=kept))
        assert client.get("/api/libraries/films/playback/clip0").json()["how"] == how


def test_too_many_conversions_are_refused(films: Path, library: Library, open_client: Open, tmp_path: Path) -> None:
    client: TestClient = open_client(limits=Limits(conversions=1, waiting=0))
    library.videos = tmp_path
    for clip in ("clip0", "clip1"):
        write_video(tmp_path / f"{clip}.mp4", 200, codec="mpeg4")
    media = client.app.state.service.media  # type: ignore[attr-defined]
    wanted = media.conversion(media.facts(tmp_path / "clip0.mp4"), None)
    _, leave = media.begin(tmp_path / "clip0.mp4", wanted)
    refused = client.get("/media/films/video/clip1")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    leave()
