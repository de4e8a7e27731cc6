"""Files that are not what they should be: each has its own status, none is quietly fine."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from supportset.extract.decode.clips import Step, decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.workers.decode_worker import Job, Setup
from supportset.extract.workers.pool import DecodePool, StepFrames
from tests.extract.films import outcome_of, write_audio, write_video
from tests.extract.fragile import Shrink
from tests.extract.torture import cut, noisy

pytestmark = pytest.mark.slow

CUT: dict[str, dict[str, Any]] = {
    "front.mp4": {"muxer": {"movflags": "faststart"}},
    "pieces.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "gop": 10},
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "h264.avi": {"options": {"bf": "0"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.ts": {},
    "animation.gif": {"codec": "gif", "pixels": "rgb8"},
}
DAMAGED: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "hevc.mp4": {"codec": "libx265"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "jpegs.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
}


def decodable(film: Path) -> int:
    """Frames that come out whole when everything that fails is passed over."""
    count = 0
    with av.open(str(film)) as file:
        file.streams.video[0].thread_type = "NONE"
        for packet in file.demux(video=0):
            with contextlib.suppress(av.error.FFmpegError):
                count += sum(not frame.is_corrupt for frame in packet.decode())
    return count


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_cut_files_are_damaged_or_unreadable(tmp_path: Path, name: str, kept: float) -> None:
    film = write_video(tmp_path / name, 75, size=(160, 120), **CUT[name])
    assert outcome_of(film)[0] == "ok"
    film.write_bytes(cut(kept)(bytearray(film.read_bytes())))
    status, message, steps = outcome_of(film)
    assert steps
    if (name, kept) == ("h264.avi", 0.97):  # only its index is cut
        assert (status, decodable(film)) == ("ok", 75)
        return
    assert status == "damaged"
    assert "cut short" in message
    if name not in ("pieces.mp4", "h264.ts", "animation.gif"):  # these say nowhere how long they are
        lost, total = (int(word) for word in message.split() if word.isdigit()) if "lost (" in message else (0, 75)
        assert total - lost == pytest.approx(decodable(film), abs=2)
        assert 62 <= total <= 78, "frames after the last one that a step needs do not count"


def test_clip_that_ends_before_the_damage_is_whole(tmp_path: Path) -> None:
    film = write_video(tmp_path / "a.mkv", 75, size=(160, 120))
    os.truncate(film, film.stat().st_size * 8 // 10)
    assert outcome_of(film, start_s=0.0, end_s=1.0)[0] == "ok"
    assert outcome_of(film, start_s=0.0, end_s=3.0)[0] == "damaged"


def test_cut_file_without_its_header_is_unreadable(tmp_path: Path) -> None:
    film = write_video(tmp_path / "a.mp4", 75)  # its header comes last
    os.truncate(film, film.stat().st_size // 2)
    status, message, _ = outcome_of(film)
    assert status == "unreadable"
    assert "cut short" in message


def test_pipes_are_refused_at_once(tmp_path: Path) -> None:
    """Opening one would wait for a writer that never comes."""
    os.mkfifo(tmp_path / "pipe.mp4")
    status, message, _ = outcome_of(tmp_path / "pipe.mp4")
    assert (status, message) == ("unreadable", "a pipe, socket or device, not a file")


def with_noise(film: Path, seed: int) -> Path:
    copy = film.with_name(f"{seed}.{film.name}")
    copy.write_bytes(noisy(bytearray(film.read_bytes()), seed))
    return copy


def test_noise_is_damage(tmp_path: Path) -> None:
    """In a worker process, as such files can kill a decoder.

    All frames are asked for: damage in a frame that no step needs is none. x264 writes other bytes on other machines,
    and a transport stream may lose two whole frames without a trace: one file in four may go unnoticed.
    """
    films = [write_video(tmp_path / name, 75, size=(160, 120), **options) for name, options in DAMAGED.items()]
    assert {outcome_of(film)[0] for film in films} == {"ok"}
    copies = [with_noise(film, seed) for film in films for seed in range(4)]
    steps: Counter[str] = Counter()
    ends: dict[str, tuple[str, str]] = {}
    with DecodePool(Setup(Sampling(fps=25), Shrink(), (1, 8, 8, 3), 4), workers=1) as pool:
        for event in pool.run(Job(number, str(film)) for number, film in enumerate(copies)):
            name = copies[event.number].name
            if isinstance(event, StepFrames):
                steps[name] += 1
            else:
                ends[name] = (event.outcome.status, event.outcome.message)
    assert len(ends) == len(copies)
    noticed: Counter[str] = Counter()
    for name, (status, message) in ends.items():
        assert status in ("damaged", "ok", "crashed"), name
        if status == "damaged":
            noticed[name.split(".", 1)[1]] += 1
            told = re.fullmatch(r"(.+): (\d+) of (\d+) frames lost \(\d+\.\d%\)", message)
            assert told, (name, message)
            assert told[1] in ("corrupt data", "the file is cut short"), name
            if not name.endswith(".mpg"):  # it says nowhere how long it is
                assert 62 <= int(told[3]) <= 80, (name, message)
            assert steps[name], "what can be decoded comes before the damage is told"
    assert all(noticed[name] >= 3 for name in DAMAGED), noticed


def test_bytes_appended_behind_a_film_are_no_damage(tmp_path: Path) -> None:
    film = write_video(tmp_path / "a.mp4", 30)
    with open(film, "ab") as file:
        file.write(b"downloaded by somebody's tool, 2026" * 10)
    assert outcome_of(film)[0] == "ok"


def test_nothing_that_can_be_decoded(tmp_path: Path) -> None:
    film = write_video(tmp_path / "a.avi", 30, codec="mpeg4", gop=30)
    data = bytearray(film.read_bytes())
    start = data.index(b"movi") + 12
    data[start : data.index(b"idx1")] = b"\xff" * (data.index(b"idx1") - start)
    film.write_bytes(data)
    assert outcome_of(film)[0] == "unreadable"


def test_not_media(tmp_path: Path) -> None:
    wrong = {
        "empty.mp4": b"",
        "text.mp4": b"these are words, not pictures\n" * 99,
        "noise.avi": np.random.default_rng(0).bytes(5000),
        "subtitles.mp4": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n2\n00:00:03,000 --> 00:00:04,000\nyou\n",
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nhttp://localhost:1/a.ts\n#EXT-X-ENDLIST\n",
    }
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        status, message, _ = outcome_of(tmp_path / name)
        assert (status, "\n" in message) == ("unreadable", False), name
    assert "0 bytes" in outcome_of(tmp_path / "empty.mp4")[1]
    assert "text" in outcome_of(tmp_path / "subtitles.mp4")[1]
    (tmp_path / "folder.mp4").mkdir()
    assert outcome_of(tmp_path / "folder.mp4")[:2] == ("unreadable", "a folder, not a file")


def test_lists_of_other_files_are_not_followed(tmp_path: Path) -> None:
    private = write_video(tmp_path / "private.mp4", 25)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:1,\n{private}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile private.mp4\n")
    (tmp_path / "notes.txt").write_text("\x1b[2J\x1b[31ma password\n" * 30)
    assert outcome_of(tmp_path / "notes.txt")[0] == "unreadable"
    for name in ("list.m3u8", "list.mp4"):
        assert outcome_of(tmp_path / name)[:2] == (
            "unreadable",
            "a list of other files, not a video: name the files in it",
        )


def test_audio_only(tmp_path: Path) -> None:
    status, message, _ = outcome_of(write_audio(tmp_path / "sound.mp4"))
    assert status == "no_video"
    assert "audio" in message


def test_file_that_is_gone(tmp_path: Path) -> None:
    assert outcome_of(tmp_path / "gone.mp4")[0] == "missing"
    assert outcome_of(tmp_path / "gone.jpg")[0] == "missing"


def test_images_are_clips_of_one_upright_frame(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / "named.mp4")  # the bytes count, not the name
    (step,) = decode_clip(tmp_path / "named.mp4", sampling=Sampling(frames=8))
    np.testing.assert_array_equal(step.frames, pixels[None])
    assert (step.start_s, step.end_s) == (0.0, 1.0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    (step,) = decode_clip(tmp_path / "turned.jpg", sampling=Sampling(window=4))
    assert step.frames.shape == (4, 48, 32, 3)
    assert np.abs(step.frames[0].astype(int) - np.rot90(pixels, -1)).mean() < 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16", "1"])
def test_images_of_any_mode(tmp_path: Path, mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    image.save(tmp_path / "a.tiff")
    (step,) = decode_clip(tmp_path / "a.tiff")
    assert step.frames.shape == (1, 16, 32, 3)
    if mode not in ("1", "P"):
        assert np.abs(step.frames[0].astype(int) - grey[:, :, None]).max() < 12


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_cut_images_are_damaged(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    assert outcome_of(tmp_path / name)[0] == "damaged"


def boxes_of(data: bytes, kind: bytes) -> list[tuple[int, int]]:
    """Begin and end of the boxes of a kind."""
    places = [match.start() - 4 for match in re.finditer(re.escape(kind), data)]
    return [(at, at + int.from_bytes(data[at : at + 4], "big")) for at in places]


def check_not_silent(film: Path, good: tuple[str, str, list[Step]], sampling: Sampling | None = None) -> None:
    """The damage is reported, or does no harm."""
    status, message, steps = outcome_of(film, sampling)
    if status == "ok":
        same = [np.array_equal(one.frames, other.frames) for one, other in zip(steps, good[2], strict=True)]
        assert all(same), message


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


@pytest.mark.parametrize("which", [1, 2, 4], ids=["second", "third", "last"])
@pytest.mark.parametrize("how", ["kind", "size", "count", "time", "gone"])
def test_a_lost_fragment_is_damage(tmp_path: Path, which: int, how: str) -> None:
    """A demuxer passes over it, or ends at it, without an error."""
    film = write_video(tmp_path / "film.mp4", 100, gop=20, muxer=FRAGMENTS)
    good = outcome_of(film)
    assert good[0] == "ok"
    data = bytearray(film.read_bytes())
    begin, end = boxes_of(data, b"moof")[which]
    if how == "kind":
        data[begin + 4] ^= 1
    elif how == "size":
        data[begin + 2] ^= 4
    elif how == "count":
        data[data.index(b"trun", begin) + 10] ^= 1
    elif how == "time":
        data[data.index(b"tfdt", begin) + 13] ^= 1
    elif which < 4:  # the last one without its data leaves a shorter film
        del data[begin : end + int.from_bytes(data[end : end + 4], "big")]
    else:
        return
    film.write_bytes(data)
    check_not_silent(film, good)


@pytest.mark.parametrize(
    ("table", "entry", "byte"), [("stts", 12, 2), ("ctts", 60, 2), ("ctts", 300, 1), ("stsz", 60, 2)]
)
def test_a_damaged_table_is_damage(tmp_path: Path, table: str, entry: int, byte: int) -> None:
    film = write_video(tmp_path / "film.mp4", 100, gop=20, options={"bf": "2", "b-pyramid": "none"})
    sampling = Sampling(fps=25.0)
    good, data = outcome_of(film, sampling), bytearray(film.read_bytes())
    ((begin, _),) = boxes_of(data, table.encode())
    data[begin + 12 + entry // 4 * 4 + byte] ^= 0x10
    film.write_bytes(data)
    check_not_silent(film, good, sampling)


def behind_gif(data: bytes) -> bytes:
    return data + b"a comment; and more\0" * 20


def one_too_large(data: bytes) -> bytes:
    return data[:4] + (int.from_bytes(data[4:8], "little") + 1).to_bytes(4, "little") + data[8:]


def cut_free_box(data: bytes) -> bytes:
    return data + b"\0\0\x10\0free" + bytes(99)


def stray_packet(data: bytes) -> bytes:
    return data + data[:100]


BEHIND = [
    ("a.gif", {"codec": "gif", "pixels": "rgb8", "rate": 10}, behind_gif),
    ("a.gif", {"codec": "gif", "pixels": "rgb8", "rate": 10}, lambda data: data + bytes(500)),
    ("a.avi", {"codec": "mpeg4"}, one_too_large),
    ("a.mp4", {}, cut_free_box),
    ("a.mp4", {"muxer": {"movflags": "faststart"}}, cut_free_box),
    ("a.ts", {}, stray_packet),
    ("a.ts", {}, lambda data: data + bytes(100)),
    ("a.mkv", {}, lambda data: data + bytes(4096)),
]


@pytest.mark.parametrize(("name", "options", "change"), BEHIND)
def test_bytes_behind_the_end_are_no_damage(
    tmp_path: Path, name: str, options: dict[str, Any], change: Callable[[bytes], bytes]
) -> None:
    film = write_video(tmp_path / name, 50, **options)
    film.write_bytes(change(film.read_bytes()))
    assert outcome_of(film)[:2] == ("ok", "")
