"""Frames of clips against the plain way: decode everything, then apply the rule by hand."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from supportset.extract.decode import seek_plan
from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from tests.extract.films import decode_all, filtered, outcome_of, pick, repeated, steps_of, write_video

pytestmark = pytest.mark.slow

GAPS = [0, 40, 80, 120, 400, 440, 1000, 1010, 1020, 1500, 2200, 2210, 3000, 3700, 3740, 4100, 5200, 5240, 5900, 6000]

FILMS: dict[str, dict[str, Any]] = {
    "h264-b-frames.mp4": {"count": 70, "options": {"bf": "3"}},
    "h264.mkv": {"count": 70, "gop": 10},
    "mpeg4.avi": {"count": 60, "codec": "mpeg4"},
    "mpeg4-b-frames.mp4": {"count": 60, "codec": "mpeg4", "options": {"bf": "2"}},
    "hevc.mp4": {"count": 60, "codec": "libx265"},
    "vp9.webm": {"count": 40, "codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "ntsc.mp4": {"count": 100, "rate": Fraction(30000, 1001)},
    "slow.mp4": {"count": 7, "rate": 1},
    "one-frame.mp4": {"count": 1},
    "variable.mp4": {"count": len(GAPS), "ticks": GAPS},
    "variable.mkv": {"count": len(GAPS), "ticks": GAPS},
    "late.ts": {"count": 50},
    "fragments.mp4": {"count": 50, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "odd.mp4": {"count": 30, "size": (63, 47), "pixels": "yuv444p"},
    "ten-bit.mp4": {"count": 30, "codec": "libx265", "pixels": "yuv420p10le"},
    "animation.gif": {"count": 20, "codec": "gif", "pixels": "rgb8", "rate": 10},
    "jpegs.avi": {"count": 30, "codec": "mjpeg", "pixels": "yuvj420p"},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    return {name: write_video(folder / name, **options) for name, options in FILMS.items()}


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("fps", [1.0, 3.0])
def test_frames_are_those_of_the_rule(films: dict[str, Path], name: str, fps: float) -> None:
    frames, end = decode_all(films[name])
    steps = steps_of(films[name], Sampling(fps=fps))
    assert len(steps) == max(1, int(end * int(fps) + Fraction(1, 2)))
    for k, step in enumerate(steps):
        middle = min((k + Fraction(1, 2)) / int(fps), end / 2 if len(steps) == 1 and end * int(fps) < 0.5 else end)
        np.testing.assert_array_equal(step.frames[0], pick(frames, middle), err_msg=f"step {k}")
        assert step.start_s == pytest.approx(k / fps)
    assert steps[-1].end_s == pytest.approx(float(end))


@pytest.mark.parametrize("name", FILMS)
def test_frames_by_count(films: dict[str, Path], name: str) -> None:
    frames, end = decode_all(films[name])
    steps = steps_of(films[name], Sampling(frames=6))
    count = min(6, len(frames))
    assert len(steps) == count
    for k, step in enumerate(steps):
        np.testing.assert_array_equal(step.frames[0], pick(frames, end * (2 * k + 1) / (2 * count)))


@pytest.mark.parametrize(
    "name", ["h264-b-frames.mp4", "variable.mp4", "ntsc.mp4", "late.ts", "animation.gif", "ten-bit.mp4"]
)
@pytest.mark.parametrize("fps", [1, 2, 7])
def test_whole_videos_give_the_frames_of_ffmpegs_fps_filter(films: dict[str, Path], name: str, fps: int) -> None:
    """``ffmpeg -i FILE -vf setpts=PTS-STARTPTS,fps=F:round=near -pix_fmt rgb24``."""
    expected = filtered(films[name], "setpts=PTS-STARTPTS", f"fps=fps={fps}:round=near")
    steps = steps_of(films[name], Sampling(fps=float(fps)))
    assert len(expected) in (
        len(steps),
        len(steps) + 1,
    )  # where the last frame's length is a guess the filter may add one
    for step, image in zip(steps, expected, strict=False):
        np.testing.assert_array_equal(step.frames[0], image)


@pytest.mark.parametrize("name", ["h264-b-frames.mp4", "variable.mp4", "animation.gif", "one-frame.mp4"])
@pytest.mark.parametrize(("window", "stride"), [(4, 1), (5, 3), (32, 1)])
def test_windows_are_frames_of_the_video_around_the_middle(
    films: dict[str, Path], name: str, window: int, stride: int
) -> None:
    frames, end = decode_all(films[name])
    steps = steps_of(films[name], Sampling(fps=2.0, window=window, stride=stride))
    for k, step in enumerate(steps):
        moment = (k + Fraction(1, 2)) / 2 if end * 2 >= 0.5 else end / 2
        middle = max(0, sum(time < moment for time, _ in frames) - 1)
        start = max(0, min(middle - (window - 1) // 2 * stride, len(frames) - 1 - (window - 1) * stride))
        expected = [frames[min(start + j * stride, len(frames) - 1)][1] for j in range(window)]
        np.testing.assert_array_equal(step.frames, np.stack(expected))


@pytest.mark.parametrize("name", ["h264-b-frames.mp4", "h264.mkv", "variable.mp4", "late.ts", "mpeg4.avi"])
@pytest.mark.parametrize("span", [(0.5, 1.5), (0.93, None), (None, 0.71), (1.0, 9.0)])
def test_clips_within_a_video(films: dict[str, Path], name: str, span: tuple[float | None, float | None]) -> None:
    frames, end = decode_all(films[name])
    start = Fraction(str(span[0] or 0))
    stop = end if span[1] is None else min(end, Fraction(str(span[1])))
    shown_at_start = [i for i, (time, _) in enumerate(frames) if time <= start][-1]
    inside = [frame for i, frame in enumerate(frames) if i >= shown_at_start and frame[0] < stop]
    steps = steps_of(films[name], Sampling(frames=3), *span)
    count = min(3, len(inside))
    assert len(steps) == count
    for k, step in enumerate(steps):
        moment = start + (stop - start) * (2 * k + 1) / (2 * count)
        np.testing.assert_array_equal(step.frames[0], pick(inside, moment))
        assert step.start_s == pytest.approx(float((stop - start) * k / count))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("closed.mp4", {"options": {"bf": "2", "x264-params": "open-gop=0"}}),
        ("open.mp4", {"options": {"bf": "3", "x264-params": "open-gop=1"}}),
        ("open.mkv", {"options": {"bf": "3", "x264-params": "open-gop=1"}}),
        ("refresh.mp4", {"options": {"x264-params": "intra-refresh=1"}}),
        ("hevc-open.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:bframes=4"}}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "lag-in-frames": "10"}}),
        ("vp8.webm", {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "10", "cpu-used": "8"}}),
        ("mpeg4.mp4", {"codec": "mpeg4", "options": {"bf": "2"}}),
    ],
)
def test_seeking_gives_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    film = write_video(tmp_path / name, 150, gop=20, **options)
    frames, end = decode_all(film)
    with_seeks = steps_of(film, Sampling(frames=3), 1.3, None)
    packets = 0

    def count() -> None:
        nonlocal packets
        packets += 1

    list(decode_clip(film, 1.3, None, Sampling(frames=3), heartbeat=count))
    counted_with, packets = packets, 0
    monkeypatch.setattr(seek_plan, "_SEEK_GAIN", 10**9)
    without = list(decode_clip(film, 1.3, None, Sampling(frames=3), heartbeat=count))
    assert len(with_seeks) == len(without) == 3
    for k, (one, other) in enumerate(zip(with_seeks, without, strict=True)):
        moment = Fraction("1.3") + (end - Fraction("1.3")) * (2 * k + 1) / 6
        np.testing.assert_array_equal(one.frames[0], pick(frames, moment), err_msg=f"step {k}")
        np.testing.assert_array_equal(one.frames, other.frames)
    if name != "refresh.mp4":  # see below
        assert counted_with < packets - 20
        # The index pass reads all 150; then each step's key frame is gone to, not the one before it.
        assert counted_with <= 150 + 3 * 20


@pytest.mark.parametrize("name", ["refresh.mp4", "refresh.mkv"])
def test_frames_that_come_late_are_sought_from_the_key_frame_before(tmp_path: Path, name: str) -> None:
    """With intra refresh a decoder gives no frame until all of the picture was renewed."""
    film = write_video(tmp_path / name, 300, gop=20, options={"x264-params": "intra-refresh=1"})
    frames, _ = decode_all(film)
    packets = 0

    def count() -> None:
        nonlocal packets
        packets += 1

    rate = 300 / float(frames[-1][0] + frames[1][0])
    start, end = 200 / rate, 290 / rate
    steps = list(decode_clip(film, start, end, Sampling(frames=3), heartbeat=count))
    for k, step in enumerate(steps):
        moment = Fraction(start) + Fraction(end - start) * (2 * k + 1) / 6
        np.testing.assert_array_equal(step.frames[0], pick(frames, moment))
    assert packets <= 300 + 20 + 3 * 60 < 300 + 275, "the index, one vain attempt, and three runs; from the start: 275"


def test_clip_ends_are_noted(films: dict[str, Path]) -> None:
    decoding = decode_clip(films["h264-b-frames.mp4"], 1.0, 9.0, Sampling())
    assert [next(decoding).end_s, next(decoding).end_s] == [1.0, pytest.approx(1.8)]
    with pytest.raises(StopIteration) as stopped:
        next(decoding)
    assert "ends at 2.80 s" in stopped.value.value


@pytest.mark.parametrize(("start", "end"), [(2.8, None), (5.0, 8.0), (1.0, 1.0), (2.0, 1.0)])
def test_clips_without_a_frame_are_too_short(films: dict[str, Path], start: float, end: float | None) -> None:
    status, message, steps = outcome_of(films["h264-b-frames.mp4"], start_s=start, end_s=end)
    assert (status, steps) == ("too_short", [])
    assert f"{start:g} s" in message


def test_raw_stream_without_timestamps(tmp_path: Path) -> None:
    film = write_video(tmp_path / "raw.h264", 60, container="h264")
    with av.open(str(film)) as file:
        frames = [(Fraction(i, 25), f.to_ndarray(format="rgb24")) for i, f in enumerate(file.decode(video=0))]
    steps = steps_of(film, Sampling(fps=2.0))
    assert [step.end_s for step in steps] == [0.5, 1.0, 1.5, 2.0, 2.4]
    for k, step in enumerate(steps):
        np.testing.assert_array_equal(step.frames[0], pick(frames, Fraction(2 * k + 1, 4)))


@pytest.mark.parametrize("name", ["edit-list.mp4", "edit-list.mov"])
def test_frames_before_time_zero_are_not_part_of_the_video(tmp_path: Path, name: str) -> None:
    """A cut without re-encoding leaves frames with negative times, which the edit list hides."""
    film, cut = write_video(tmp_path / "whole.mp4", 60, gop=20, options={"bf": "2"}), tmp_path / name
    with av.open(str(film)) as source, av.open(str(cut), "w", options={"avoid_negative_ts": "disabled"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - 13 * 512, packet.dts - 13 * 512, stream
                target.mux(packet)
    frames, end = decode_all(cut)
    whole, _ = decode_all(film)
    assert len(frames) == 47
    np.testing.assert_array_equal(frames[0][1], whole[13][1])
    steps = steps_of(cut, Sampling(fps=2.0))
    assert steps[-1].end_s == pytest.approx(float(end))
    for k, step in enumerate(steps):
        np.testing.assert_array_equal(step.frames[0], pick(frames, Fraction(2 * k + 1, 4)))


@pytest.mark.parametrize("degrees", [90, 180, 270, -1])
def test_pictures_stand_upright(tmp_path: Path, degrees: int) -> None:
    straight = steps_of(write_video(tmp_path / "straight.mp4", 5), Sampling())[0].frames[0]
    turned = steps_of(write_video(tmp_path / "turned.mp4", 5, rotation=degrees), Sampling())[0].frames[0]
    expected = straight[:, ::-1] if degrees == -1 else np.rot90(straight, k=-degrees // 90)
    np.testing.assert_array_equal(turned, expected)
    assert turned.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    "name", ["with space.mp4", "ünï-コード.mp4", "new\nline.mp4", "%03d:http:x.mp4", "-y.mp4", "#?&.mp4"]
)
def test_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_video(tmp_path / "plain.mp4", 5).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(steps_of(Path(name), Sampling())) == 1


def test_transform_sees_each_frame_once(films: dict[str, Path]) -> None:
    seen: list[bytes] = []

    def shrink(image: np.ndarray) -> np.ndarray:
        assert image.dtype == np.uint8
        seen.append(image.tobytes())
        return image[:8, :9]

    steps = list(decode_clip(films["h264-b-frames.mp4"], sampling=Sampling(fps=5.0, window=8), transform=shrink))
    assert {step.frames.shape for step in steps} == {(8, 8, 9, 3)}
    assert len(seen) == len(set(seen)) < len(steps) * 8


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        film = write_video(tmp_path / f"{count}.mp4", count, size=(160, 120), gop=25)
        tracemalloc.start()
        for _ in decode_clip(film, sampling=Sampling(fps=10.0, window=4)):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)  # what is loaded on first use
    assert peak(200) < peak(30) + 200_000  # a picture has 58 kB, those of the longer file 11.5 MB


def test_memory_of_the_process_does_not_grow_with_length(tmp_path: Path) -> None:
    """FFmpeg's own memory, too: ten minutes beside two seconds, every frame a step of a window of four."""
    code = (
        "import resource, sys\n"
        "from supportset.extract.decode.clips import decode_clip\n"
        "from supportset.extract.decode.sampling import Sampling\n"
        "steps = sum(1 for _ in decode_clip(sys.argv[1], sampling=Sampling(fps=25.0, max_steps=10**6, window=4)))\n"
        "print(steps, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    short = write_video(tmp_path / "50.mp4", 50, codec="mpeg4", gop=25)
    for film, count in ((short, 50), (repeated(short, tmp_path / "15000.mp4", 300), 15_000)):
        told = subprocess.run(
            [sys.executable, "-c", code, str(film)], cwd=Path(__file__).parents[2], capture_output=True, check=True
        )
        steps, peak = map(int, told.stdout.split())
        assert steps == count
        peaks.append(peak)
    # The plan of 15,000 windows and the times of the frames are some 10 MB; the pictures would be 138 MB.
    assert peaks[1] < peaks[0] + 30_000


def test_real_clips(shared_data: Path) -> None:
    checked = 0
    for film in sorted((shared_data / "clips").rglob("*.*"))[::2]:
        if film.name == "j2Dhf-xFUxU_13_20.avi":
            continue  # its guessed timestamps run backwards; see the next test
        with av.open(str(film)) as file:
            video = file.streams.video[0]
            if video.frames * video.width * video.height > 17_000_000:
                continue  # as the others, but the plain way holds all their pixels
        frames, end = decode_all(film)
        steps = steps_of(film, Sampling())
        middles = [span.middle for span in Sampling().steps(end, len(frames))]
        assert len(steps) == len(middles)
        for step, middle in zip(steps, middles, strict=True):
            np.testing.assert_array_equal(step.frames[0], pick(frames, middle), err_msg=film.name)
        checked += 1
    assert checked >= 8


def test_timestamps_that_run_backwards_keep_the_decoders_order(shared_data: Path) -> None:
    film = shared_data / "clips" / "msvd" / "j2Dhf-xFUxU_13_20.avi"
    frames, _ = decode_all(film)
    images = [image.tobytes() for _, image in frames]
    steps = steps_of(film, Sampling(fps=15.0))
    order = [images.index(step.frames[0].tobytes()) for step in steps]
    assert order == sorted(order)
    assert len(set(order)) >= 104  # of 106, two of which share the time of their neighbour
