"""Matroska and WebM files with broken structure: a demuxer continues behind it silently, the outcome says so."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest

from supportset.extract.decode import frame_index
from supportset.extract.decode.damage import lost_frames, matroska
from supportset.extract.decode.damage.lost_frames import find_lost
from supportset.extract.decode.damage.matroska import Stretch
from supportset.extract.decode.frame_index import read_index
from tests.extract.films import outcome_of, picture, write_video
from tests.extract.torture import GAPS

FRAMES = 100
CLUSTERS = {"cluster_time_limit": "1000"}  # a second each
PLAIN: dict[str, Any] = {"codec": "mpeg4", "gop": 5, "muxer": CLUSTERS}  # no B-frames: in the order they are shown


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("plain") / "a.mkv", FRAMES, **PLAIN).read_bytes()


def copied(film: bytes, folder: Path) -> Path:
    (folder / "a.mkv").write_bytes(film)
    return folder / "a.mkv"


def stretches(path: Path) -> list[Stretch]:
    return list(matroska.stretches(path, lambda: None))


def packets_of(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path)) as file:
        return [(int(packet.pos or 0), packet.size) for packet in file.demux(video=0) if packet.size]


def blocks_of(path: Path) -> list[Stretch]:
    return [part for part in stretches(path) if part.track == 1]


def with_sound(path: Path, pictures: range = range(50), sounds: int = 50, **options: Any) -> Path:
    """A film of 40 ms a picture, and an Opus track, whose last block is in a group (it is to be shortened)."""
    with av.open(str(path), "w", options=CLUSTERS | options) as file:
        video: Any = file.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = file.add_stream("libopus", rate=48000, layout="mono")
        for number in range(max(sounds, pictures.stop)):
            if number in pictures:
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                file.mux(video.encode(frame))
            if number >= sounds:
                continue
            wave = np.sin(np.arange(1920) / 20).astype(np.float32)[None]
            heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 48000, number * 1920
            file.mux(sound.encode(heard))
        file.mux(video.encode())
        file.mux(sound.encode())
    return path


def overwrite(film: Path, at: int, value: bytes) -> None:
    data = bytearray(film.read_bytes())
    data[at : at + len(value)] = value
    film.write_bytes(data)


def size_of(film: Path, block: Stretch) -> int:
    """Where a block's length begins: behind its kind, one byte."""
    data = film.read_bytes()
    return next(at for at in range(block.begin - 2, 0, -1) if data[at] == 0xA3) + 1


@pytest.mark.parametrize(
    ("name", "options"),
    {
        "a.mkv": {"muxer": CLUSTERS},
        "live.mkv": {"muxer": CLUSTERS | {"live": "1"}},
        "a.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}, "muxer": CLUSTERS},
    }.items(),
)
def test_blocks_are_where_the_demuxer_finds_packets(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    film = write_video(tmp_path / name, FRAMES, **options)
    found = stretches(film)
    assert [(part.begin, part.end - part.begin - 4) for part in found] == packets_of(film)  # 4: track, time, flags
    assert {part.track for part in found} == {1}


@pytest.mark.parametrize("live", ["0", "1"])
def test_tracks_and_groups(tmp_path: Path, live: str) -> None:
    film = with_sound(tmp_path / "a.mkv", live=live)
    found = stretches(film)
    assert [part.begin for part in found if part.track == 1] == [pos for pos, _ in packets_of(film)]
    with av.open(str(film)) as file:
        assert [part.begin for part in found if part.track == 2] == [
            packet.pos for packet in file.demux(audio=0) if packet.size
        ]
    assert not [part for part in found if part.track not in (1, 2)]


def test_a_file_that_is_no_matroska_has_none(tmp_path: Path) -> None:
    assert not stretches(write_video(tmp_path / "a.mp4", 5))
    (tmp_path / "empty").touch()
    assert not stretches(tmp_path / "empty")


def lost_and_all(message: str) -> tuple[int, int]:
    words = message.removeprefix("corrupt data: ").split()
    return int(words[0]), int(words[2])


def test_a_kind_that_nobody_knows_is_a_lost_frame(tmp_path: Path, plain: bytes) -> None:
    film = copied(plain, tmp_path)
    unknown_kind(film, blocks_of(film)[39])  # frame 39 is a P-frame, the last of its group
    assert outcome_of(film)[:2] == ("damaged", "corrupt data: 1 of 100 frames lost (1.0%)")


def test_a_wrong_length_loses_the_rest_of_the_cluster(tmp_path: Path, plain: bytes) -> None:
    film = copied(plain, tmp_path)
    block = blocks_of(film)[30]
    overwrite(film, size_of(film, block), b"\x1f\xff\xff\xff")
    left = len(packets_of(film))
    assert left <= 90
    status, message, _ = outcome_of(film)
    assert status == "damaged"
    lost, total = lost_and_all(message)
    assert total == pytest.approx(FRAMES, abs=1)
    assert total - lost == pytest.approx(left, abs=1)


def test_only_clips_with_lost_frames_are_damaged(tmp_path: Path, plain: bytes) -> None:
    """Frames 30 to 39 are lost, the rest of their cluster: 1.2 to 1.6 s."""
    film = copied(plain, tmp_path)
    overwrite(film, size_of(film, blocks_of(film)[30]), b"\x1f\xff\xff\xff")
    assert read_index(film, lambda: None).gone.tolist() == [number * 40 for number in range(30, 40)]
    assert outcome_of(film, start_s=0.0, end_s=1.1)[0] == "ok"
    assert outcome_of(film, start_s=1.0, end_s=1.4)[1] == "corrupt data: 5 of 10 frames lost (50.0%)"
    assert outcome_of(film, start_s=1.0, end_s=3.0)[1].startswith("corrupt data: 10 of ")
    assert outcome_of(film, start_s=1.6, end_s=4.0)[0] == "ok"


def test_a_block_that_the_demuxer_refuses(tmp_path: Path) -> None:
    """Its flags say that it holds several frames, and their lengths make no sense."""
    film = write_video(tmp_path / "a.webm", FRAMES, codec="libvpx-vp9", options={"cpu-used": "8"}, muxer=CLUSTERS)
    block = blocks_of(film)[40]
    overwrite(film, block.begin + 3, b"\x06\xff\xff\xff\xff")
    left = len(packets_of(film))
    assert left < FRAMES - 5
    status, message, _ = outcome_of(film)
    assert status == "damaged"
    assert lost_and_all(message)[1] == pytest.approx(FRAMES, abs=1)


def test_the_end_may_be_lost(tmp_path: Path, plain: bytes) -> None:
    film = copied(plain, tmp_path)
    first, last = blocks_of(film)[60], blocks_of(film)[-1]
    overwrite(film, first.begin - 8, bytes(last.end - first.begin + 8))
    status, message, _ = outcome_of(film)
    assert status == "damaged"
    lost, total = lost_and_all(message)
    assert (lost, total) == (pytest.approx(40, abs=1), pytest.approx(FRAMES, abs=1))


def test_where_the_beginning_is_lost_every_clip_has_other_frames(tmp_path: Path, plain: bytes) -> None:
    film = copied(plain, tmp_path)
    blocks = blocks_of(film)
    overwrite(film, blocks[0].begin - 4, bytes(blocks[20].end - blocks[0].begin + 4))
    for part in ({}, {"start_s": 1.0, "end_s": 2.0}):
        status, message, _ = outcome_of(film, **part)
        assert status == "damaged"
        assert message.startswith("corrupt data: ")


def test_gaps_of_a_screen_recording_are_none(tmp_path: Path) -> None:
    film = write_video(tmp_path / "a.mkv", len(GAPS), ticks=GAPS, codec="mpeg4", muxer=CLUSTERS)
    assert outcome_of(film)[:2] == ("ok", "")


def unknown_kind(film: Path, block: Stretch) -> None:
    overwrite(film, size_of(film, block) - 1, b"\xf6")


@pytest.mark.parametrize(
    ("pictures", "lost"), [(range(50), 20), (range(50), 100), (range(75, 120), 20)], ids=["beside", "after", "before"]
)
def test_lost_sound_is_no_lost_frame(tmp_path: Path, pictures: range, lost: int) -> None:
    """Neither beside the pictures, nor where there are none any more or yet."""
    film = with_sound(tmp_path / "a.mkv", pictures, 150)
    assert outcome_of(film)[:2] == ("ok", "")
    sound = [part for part in stretches(film) if part.track == 2]
    unknown_kind(film, sound[lost * 2])  # of 20 ms each
    assert [part for part in stretches(film) if part.track is None]
    assert outcome_of(film)[:2] == ("ok", "")


def test_a_lost_index_is_no_lost_frame(tmp_path: Path) -> None:
    film = with_sound(tmp_path / "a.mkv", sounds=150)
    overwrite(film, film.read_bytes().rindex(b"\x1c\x53\xbb\x6b"), b"\x1c\x53\xbb\x6a")
    assert [part for part in stretches(film) if part.track is None]
    assert outcome_of(film)[:2] == ("ok", "")


def test_gaps_before_the_damage_are_none(tmp_path: Path) -> None:
    """A recording that was never closed, with something behind it, or cut in its last block."""
    film = write_video(tmp_path / "a.mkv", len(GAPS), ticks=GAPS, codec="mpeg4", muxer={"live": "1"})
    whole = film.read_bytes()
    film.write_bytes(whole + bytes(4096))
    assert outcome_of(film)[:2] == ("ok", "")
    film.write_bytes(whole[:-5])
    assert outcome_of(film)[:2] == ("ok", "")


def remuxed(film: bytes, path: Path, later: int = 0, empty: int = 0) -> Path:
    """The film ``later`` ticks later, every ``empty``-th block without content."""
    copied(film, path.parent).rename(path.with_name("whole.mkv"))
    with av.open(str(path.with_name("whole.mkv"))) as source, av.open(str(path), "w", options=CLUSTERS) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0), 1):
            if packet.pts is None or packet.dts is None:
                continue
            copy = av.Packet(b"" if empty and number % empty == 0 else bytes(packet))
            copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
            copy.pts, copy.dts = packet.pts + later, packet.dts + later
            target.mux(copy)
    return path


def test_empty_blocks_are_no_lost_frames(tmp_path: Path, plain: bytes) -> None:
    film = remuxed(plain, tmp_path / "b.mkv", empty=10)
    assert len(packets_of(film)) == FRAMES - FRAMES // 10
    assert not len(read_index(film, lambda: None).gone)


def test_a_film_that_begins_late(tmp_path: Path, plain: bytes) -> None:
    """The header may tell its length, or when it ends."""
    film = remuxed(plain, tmp_path / "b.mkv", later=100_000)
    assert outcome_of(film)[:2] == ("ok", "")
    unknown_kind(film, blocks_of(film)[39])
    index = read_index(film, lambda: None)
    places = {pos for pos, _ in packets_of(film)}
    for declared in (4000, 104_000):
        gone = find_lost(film, places, index.ticks, index.end, declared, lambda: None)
        assert gone.tolist() == [100_000 + 39 * 40]


def test_sound_that_outlasts_the_film_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tags say how long each track is: the file is not looked at once more."""
    film = with_sound(tmp_path / "a.mkv", sounds=150)
    looked = Mock(side_effect=matroska.stretches)
    monkeypatch.setattr(lost_frames, "stretches", looked)
    assert outcome_of(film)[:2] == ("ok", "")
    assert not looked.called
    unknown_kind(film, blocks_of(film)[39])
    assert outcome_of(film)[0] == "damaged"
    assert looked.called


def test_what_cannot_be_read_again_is_left_to_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_video(tmp_path / "a.mkv", len(GAPS), ticks=GAPS, codec="mpeg4")

    def fails(*given: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(frame_index, "find_lost", fails)
    assert outcome_of(film)[:2] == ("ok", "")


def test_hostile_bytes_are_one_part(tmp_path: Path, plain: bytes) -> None:
    """Marks of clusters that are none, elements that nobody knows: one part each, and signs of life on the way."""
    film = copied(plain, tmp_path)
    first = blocks_of(film)[0].begin
    for noise in (b"\x1f\x43\xb6\x75" * 3000, b"\xf6\x80" * 3000, bytes(3_000_000)):
        film.write_bytes(plain[: first - 4] + noise)
        beat = Mock()
        parts = list(matroska.stretches(film, beat))
        assert sum(part.track is None for part in parts) <= 1
        assert beat.called


def test_times_beyond_all_bounds(tmp_path: Path, plain: bytes) -> None:
    film = copied(plain, tmp_path)
    at = plain.index(b"\xe7", plain.index(b"\x1f\x43\xb6\x75", len(plain) // 2))
    film.write_bytes(plain[:at] + b"\xe7\x88" + b"\xff" * 8 + plain[at + 2 + (plain[at + 1] & 0x7F) :])
    assert outcome_of(film)[0] in ("ok", "damaged")


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_without_a_word(tmp_path: Path, plain: bytes, seed: int) -> None:
    """With any bytes hit, the frames that the outcome names are those of the intact film."""
    film = copied(plain, tmp_path)
    length = film.stat().st_size
    for at in np.random.default_rng(seed).integers(length // 6, length * 5 // 6, 8):
        overwrite(film, int(at), bytes([film.read_bytes()[at] ^ 0x55]))
    left = len(packets_of(film))
    status, message, _ = outcome_of(film)
    if status == "ok":
        assert left >= FRAMES - 1
    else:
        assert lost_and_all(message)[1] == pytest.approx(FRAMES, abs=6)
