"""Which stream, from where, and when: what containers state wrongly, or do not state."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from supportset.extract.decode.frame_index import read_index
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.timeline import Timing
from tests.extract.films import decode_all, filtered, outcome_of, picture, repeated, steps_of, write_video

pytestmark = pytest.mark.slow

SAMPLING = Sampling(fps=2.0)


def packets_of(film: Path, **changes: Any) -> Iterator[av.Packet]:
    """The packets of a film, with other attributes."""
    with av.open(str(film)) as source:
        for packet in source.demux(video=0):
            if packet.size:
                for name, value in changes.items():
                    setattr(packet, name, value)
                yield packet


def remuxed(film: Path, path: Path, packets: Iterator[av.Packet] | None = None, **options: Any) -> Path:
    with av.open(str(film)) as source, av.open(str(path), "w", **options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in packets or packets_of(film):
            packet.stream = stream
            target.mux(packet)
    return path


def check(film: Path, shown: list[np.ndarray], rate: Fraction | int, sampling: Sampling = SAMPLING) -> None:
    """The steps are those of frames that follow one another at a rate."""
    steps = steps_of(film, sampling)
    assert sampling.fps is not None
    assert len(steps) == int(len(shown) / rate * sampling.fps + 0.5)
    for k, step in enumerate(steps):
        number = -(-(2 * k + 1) * rate // int(2 * sampling.fps)) - 1  # the last frame before (k + 1/2) / fps seconds
        np.testing.assert_array_equal(step.frames[0], shown[int(number)], err_msg=f"step {k}")


# --- key frames


LYING = [
    ("libx264", "mp4", {"options": {"bf": "0"}}),
    ("libx265", "mkv", {"options": {"x265-params": "log-level=none:bframes=0"}}),
    ("libvpx", "webm", {}),
    ("libvpx-vp9", "mkv", {}),
    ("mpeg4", "mp4", {}),
    ("mpeg4", "mkv", {}),
    ("h263", "3gp", {"size": (176, 144)}),
    ("msmpeg4v3", "mkv", {}),
    ("wmv2", "asf", {}),
    ("flv", "flv", {}),
    ("mpeg2video", "mkv", {}),
    ("rpza", "mov", {"pixels": "rgb555le"}),
    ("dvvideo", "mov", {"size": (720, 576)}),
    ("qtrle", "mov", {"pixels": "rgb24"}),
    ("cinepak", "mov", {"pixels": "rgb24"}),
    ("ffv1", "mkv", {"options": {"coder": "1", "context": "1"}}),
]


@pytest.mark.parametrize(("codec", "kind", "options"), LYING, ids=[f"{codec}.{kind}" for codec, kind, _ in LYING])
def test_every_frame_is_marked_as_a_key_frame(tmp_path: Path, codec: str, kind: str, options: dict[str, Any]) -> None:
    film = write_video(tmp_path / f"true.{kind}", 100, codec=codec, gop=100, **options)
    lying = remuxed(film, tmp_path / f"film.{kind}", packets_of(film, is_keyframe=True))
    frames, _ = decode_all(film)
    for step, (start, end) in zip(steps_of(lying, Sampling(fps=1.0)), ((k, k + 1) for k in range(4)), strict=True):
        number = int((start + end) / 2 * 25 + 0.5) - 1
        np.testing.assert_array_equal(step.frames[0], frames[number][1], err_msg=f"{start} s")


def test_a_palette_comes_once(tmp_path: Path) -> None:
    """QuickTime's 8-bit palette is with the first packet only."""
    film = write_video(tmp_path / "film.mov", 100, codec="qtrle", pixels="gray", gop=10)
    for step, image in zip(steps_of(film, Sampling(fps=1.0)), decode_all(film)[0][12::25], strict=True):
        np.testing.assert_array_equal(step.frames[0], image[1])


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_parameter_sets_that_come_once(tmp_path: Path, kind: str) -> None:
    """Two films joined: the second one's sets have the numbers of the first one's, and come with its first frame."""
    first = write_video(tmp_path / f"a.{kind}", 50, gop=10, options={"bf": "0", "x264-params": "cabac=1"})
    second = write_video(tmp_path / f"b.{kind}", 100, gop=10, options={"bf": "0", "x264-params": "cabac=0:ref=1"})
    with av.open(str(second)) as source:
        header = bytes(source.streams.video[0].codec_context.extradata or b"")
    sps = header[8 : 8 + int.from_bytes(header[6:8], "big")]
    at = 8 + len(sps)
    pps = header[at + 3 : at + 3 + int.from_bytes(header[at + 1 : at + 3], "big")]
    assert (sps[0] & 31, pps[0] & 31) == (7, 8)

    def joined() -> Iterator[av.Packet]:
        end = 0
        for packet in packets_of(first):
            end = packet.pts + packet.duration
            yield packet
        for number, packet in enumerate(packets_of(second)):
            data = bytes(packet)
            if not number:
                data = b"".join(len(unit).to_bytes(4, "big") + unit for unit in (sps, pps)) + data
            new = av.Packet(data)
            new.pts, new.dts, new.duration = packet.pts + end, packet.dts + end, packet.duration
            new.time_base, new.is_keyframe = packet.time_base, packet.is_keyframe
            yield new

    film = remuxed(first, tmp_path / f"film.{kind}", joined())
    shown = filtered(film)
    assert len(shown) == 150
    check(film, shown, 25)
    np.testing.assert_array_equal(steps_of(film, Sampling(frames=1), 5.0, 5.2)[0].frames[0], shown[127])


# --- times


@pytest.mark.parametrize("rate", [10, 30, 50, Fraction(30000, 1001)])
@pytest.mark.parametrize(("codec", "kind"), [("libx264", "h264"), ("libx265", "hevc"), ("mpeg2video", "mpeg2video")])
def test_raw_streams_have_the_rate_they_state(tmp_path: Path, codec: str, kind: str, rate: Fraction) -> None:
    if codec == "mpeg2video" and rate == 10:
        rate = Fraction(24)  # MPEG-2 has few rates
    film = write_video(tmp_path / "camera.mp4", int(3 * rate), codec=codec, rate=Fraction(rate), container=kind)
    with av.open(str(film)) as file:
        assert file.format.name == kind.replace("mpeg2video", "mpegvideo")
    check(film, filtered(film), rate)


@pytest.mark.parametrize("kind", ["avi", "mp4", "mkv"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_guessed_presentation_times(tmp_path: Path, codec: str, kind: str) -> None:
    """AVI has none, and what was copied from AVI has wrong ones: the decoder's order is right."""
    film = write_video(tmp_path / "film.avi", 100, codec=codec, options={"bf": "2"})
    shown = filtered(film)
    if kind != "avi":

        def guessed() -> Iterator[av.Packet]:
            for packet in packets_of(film):
                packet.pts = packet.dts
                yield packet

        film = remuxed(film, tmp_path / f"film.{kind}", guessed())
    assert read_index(film, lambda: None).timing == Timing.ORDER
    check(film, shown, 25)


def test_empty_chunks_repeat_a_frame(tmp_path: Path) -> None:
    """An AVI of variable rate: nothing is lost."""
    ticks = [number + 5 * (number // 5) for number in range(50)]
    film = write_video(tmp_path / "film.avi", 50, codec="mjpeg", pixels="yuvj420p", ticks=ticks, base=Fraction(1, 25))
    assert outcome_of(film)[:2] == ("ok", "")
    shown = filtered(film, "fps=25")
    check(film, shown[:100], 25)


def test_frames_at_one_time_are_counted(tmp_path: Path) -> None:
    def at_once() -> Iterator[av.Packet]:
        for packet in packets_of(film):
            packet.pts = packet.dts = 0
            yield packet

    film = write_video(tmp_path / "film.mkv", 100, options={"bf": "0"})
    one = remuxed(film, tmp_path / "one.mkv", at_once())
    status, message, steps = outcome_of(one, SAMPLING)
    assert (status, len(steps)) == ("ok", 8)
    assert "no usable timestamps" in message or not message
    check(one, filtered(film), 25)


def begins_at(film: Path, path: Path, first: int) -> Path:
    packets = list(packets_of(film))[first:]
    return remuxed(film, path, iter(packets))


@pytest.mark.parametrize(
    ("codec", "kind"), [("libx264", "ts"), ("libx264", "mkv"), ("mpeg2video", "ts"), ("libx265", "ts")]
)
def test_a_recording_begins_between_two_key_frames(tmp_path: Path, codec: str, kind: str) -> None:
    """Time zero is when the first frame is shown."""
    film = write_video(tmp_path / f"film.{kind}", 125, codec=codec, gop=25)
    tv = begins_at(film, tmp_path / f"tv.{kind}", 3)
    shown = filtered(tv)
    steps = steps_of(tv, SAMPLING)
    assert len(steps) == 8
    for k, step in enumerate(steps):
        np.testing.assert_array_equal(step.frames[0], shown[-(-(2 * k + 1) * 25 // 4) - 1], err_msg=f"step {k}")
    status, message, _ = outcome_of(tv)
    assert (status, "begins inside a group of pictures: its first" in message) == ("ok", True)


# --- streams


@pytest.mark.parametrize("kind", ["mkv", "mov"])
@pytest.mark.parametrize("default", ["film", "both", "still"])
def test_a_still_before_the_film(tmp_path: Path, kind: str, default: str) -> None:
    film = write_video(tmp_path / f"film.{kind}", 100, size=(64, 48))
    two = tmp_path / f"two.{kind}"
    with av.open(str(film)) as source, av.open(str(two), "w") as target:
        still: Any = target.add_stream("mjpeg", rate=25)
        still.width, still.height, still.pix_fmt = 200, 300, "yuvj420p"
        stream = target.add_stream_from_template(source.streams.video[0])
        marks = av.stream.Disposition
        still.disposition = marks.default if default != "film" else marks(0)
        stream.disposition = marks.default if default != "still" else marks(0)
        frame = av.VideoFrame.from_ndarray(picture(3, (200, 300)), format="rgb24").reformat(format="yuvj420p")
        target.mux([*still.encode(frame), *still.encode()])
        for packet in packets_of(film):
            packet.stream = stream
            target.mux(packet)
    check(two, filtered(film), 25)


def test_a_small_track_before_the_film(tmp_path: Path) -> None:
    small, film = (write_video(tmp_path / f"{size[0]}.mp4", 50, size=size) for size in ((32, 24), (64, 48)))
    two = tmp_path / "two.mp4"
    with av.open(str(small)) as first, av.open(str(film)) as second, av.open(str(two), "w") as target:
        streams = [target.add_stream_from_template(source.streams.video[0]) for source in (first, second)]
        streams[0].disposition, streams[1].disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for stream, path in zip(streams, (small, film), strict=True):
            for packet in packets_of(path):
                packet.stream = stream
                target.mux(packet)
    check(two, filtered(film), 25)


def test_repeated_films_still_fit(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", 25, gop=5)
    long = repeated(film, tmp_path / "long.mp4", 4)
    check(long, filtered(film) * 4, 25)
