"""Several clips of one file in one pass: what each would get alone, at the cost of one."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from supportset.extract.decode.clips import DecodeError, Outcome, Step, decode_clip, decode_clips
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.timeline import FrameClock
from tests.extract.films import write_video

pytestmark = pytest.mark.slow

Part = tuple[float | None, float | None]
Decoded = list[tuple[list[Step], Outcome]]
GAPS = [0, 40, 80, 400, 440, 1000, 1010, 1020, 1500, 2200, 2210, 3000, 3700, 3740, 4100, 5200, 5240, 5900, 6000, 6400]
FILMS = {
    "h264.mp4": {"count": 160, "gop": 15, "options": {"bf": "3"}, "size": (48, 32)},
    "open.mkv": {"count": 160, "options": {"bf": "3", "x264-params": "open-gop=1:keyint=20"}, "size": (48, 32)},
    "late.ts": {"count": 160, "gop": 15, "size": (48, 32)},
    "variable.mp4": {"count": len(GAPS), "ticks": GAPS, "size": (48, 32)},
    "animation.gif": {"count": 64, "codec": "gif", "pixels": "rgb8", "rate": 10, "size": (48, 32)},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    return {name: write_video(folder / name, **options) for name, options in FILMS.items()}  # type: ignore[arg-type]


def alone(film: Path, part: Part, sampling: Sampling) -> tuple[list[Step], Outcome]:
    steps, decoding = [], decode_clip(film, *part, sampling)
    try:
        while True:
            steps.append(next(decoding))
    except StopIteration as end:
        return steps, Outcome("ok", end.value)
    except DecodeError as error:
        return steps, Outcome(error.outcome.status, error.outcome.message)


def together(film: Path, parts: Sequence[Part], sampling: Sampling) -> Decoded:
    steps: list[list[Step]] = [[] for _ in parts]
    ends: dict[int, Outcome] = {}
    for place, item in decode_clips(film, parts, sampling):
        assert place not in ends, "nothing comes after a clip's end"
        if isinstance(item, Step):
            steps[place].append(item)
        else:
            ends[place] = item
    return [(steps[place], ends[place]) for place in range(len(parts))]


def check_same(film: Path, parts: Sequence[Part], sampling: Sampling) -> None:
    for part, (steps, end) in zip(parts, together(film, parts, sampling), strict=True):
        expected, expected_end = alone(film, part, sampling)
        assert end == expected_end, part
        assert [step[1:] for step in steps] == [step[1:] for step in expected], part
        for step, other in zip(steps, expected, strict=True):
            np.testing.assert_array_equal(step.frames, other.frames, err_msg=str(part))


TIMES = st.none() | st.floats(0, 7).map(lambda value: round(value, 2))


@pytest.mark.parametrize("name", FILMS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=6),
    sampling=st.sampled_from(
        [Sampling(), Sampling(frames=3), Sampling(fps=8.0), Sampling(frames=2, window=5, stride=2), Sampling(window=8)]
    ),
)
def test_clips_are_those_of_separate_decoding(
    films: dict[str, Path], name: str, parts: list[Part], sampling: Sampling
) -> None:
    """Too short ones, those beyond the end, empty and reversed ones, and the same one twice among them."""
    check_same(films[name], parts, sampling)


def test_a_file_is_decoded_once(films: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    time = FrameClock._timed

    def count(clock: FrameClock, frame: object) -> tuple[object, int, bool]:
        timed = time(clock, frame)
        decoded.append(timed[1])
        return timed

    monkeypatch.setattr(FrameClock, "_timed", count)
    packets = 0

    def beat() -> None:
        nonlocal packets
        packets += 1

    parts: list[Part] = [(0.5 * k, 0.5 * k + 2.0) for k in range(9)]  # four clips at each moment
    ends = [item for _, item in decode_clips(films["h264.mp4"], parts, Sampling(fps=5.0), heartbeat=beat)]
    assert sum(isinstance(item, Outcome) for item in ends) == 9
    assert len(decoded) == len(set(decoded)) <= 160, "no frame is decoded twice"
    assert packets <= 2 * (160 + 1), "packets are read once for the index and once to decode"
    for part in parts:
        list(decode_clip(films["h264.mp4"], *part, Sampling(fps=5.0)))
    assert len(decoded) > 3 * 160


def test_gaps_are_sought_over(films: dict[str, Path]) -> None:
    seen = 0

    def beat() -> None:
        nonlocal seen
        seen += 1

    for part in [(0.0, 0.4), (5.9, 6.3)]:
        list(decode_clip(films["h264.mp4"], *part, Sampling(frames=2), heartbeat=beat))
    apart, seen = seen - 161, 0  # each reads the index, of 160 packets and the end
    list(decode_clips(films["h264.mp4"], [(0.0, 0.4), (5.9, 6.3)], Sampling(frames=2), heartbeat=beat))
    assert seen <= apart
    assert seen < 161 + 60


@pytest.mark.parametrize("name", ["h264.mp4", "open.mkv", "late.ts"])
def test_clips_answer_for_their_own_damage(tmp_path: Path, films: dict[str, Path], name: str) -> None:
    film = tmp_path / name
    data = bytearray(films[name].read_bytes())
    for at in np.random.default_rng(5).integers(len(data) * 4 // 10, len(data) * 5 // 10, 12):
        data[at] ^= 0x55
    film.write_bytes(data)
    parts: list[Part] = [(0.0, 1.0), (0.3, 6.0), (1.5, 4.0), (5.0, None), (None, None)]
    check_same(film, parts, Sampling(fps=5.0))
    statuses = [end.status for _, end in together(film, parts, Sampling(fps=5.0))]
    assert statuses[0] == "ok"
    assert statuses[4] == "damaged"
    if name != "late.ts":  # a transport stream has no index to seek by: it is decoded from its start
        assert statuses[3] == "ok"


@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_clips_of_a_cut_file(tmp_path: Path, films: dict[str, Path], kept: float) -> None:
    film = tmp_path / "cut.mkv"
    film.write_bytes(films["open.mkv"].read_bytes())
    os.truncate(film, int(film.stat().st_size * kept))
    parts: list[Part] = [(0.0, 1.0), (1.0, 6.0), (6.0, 6.4), (None, None)]
    check_same(film, parts, Sampling(fps=5.0))
    assert [end.status for _, end in together(film, parts, Sampling())] == ["ok", "damaged", "too_short", "damaged"]


def test_files_that_cannot_be_read_end_all_their_clips(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("words")
    ended = together(tmp_path / "text.mp4", [(0.0, 1.0), (2.0, 1.0), (None, None)], Sampling())
    assert [(steps, end.status) for steps, end in ended] == [([], "unreadable")] * 3
    assert together(tmp_path / "gone.mp4", [(0.0, 1.0)], Sampling())[0][1].status == "missing"


def test_clips_of_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    check_same(tmp_path / "a.png", [(None, None), (0.0, 1.0)], Sampling(window=2))


def test_a_clip_is_opened_before_it_is_decoded(films: dict[str, Path]) -> None:
    """In time for a worker to say so before a decoder kills it."""
    told: list[object] = []
    parts: list[Part] = [(3.0, 4.0), (0.0, 1.0), (9.0, 9.5)]
    for place, item in decode_clips(films["h264.mp4"], parts, Sampling(fps=2.0), opened=told.append):
        told.append((place, isinstance(item, Outcome)))
    assert told == [(2, True), 1, (1, False), (1, False), (1, True), 0, (0, False), (0, False), (0, True)]


def test_transform_sees_each_frame_once_for_all_clips(films: dict[str, Path]) -> None:
    seen: list[bytes] = []

    def shrink(image: np.ndarray) -> np.ndarray:
        seen.append(image.tobytes())
        return image[:8, :8]

    parts: list[Part] = [(0.0, 3.0), (1.0, 4.0), (1.0, 4.0)]
    list(decode_clips(films["h264.mp4"], parts, Sampling(fps=10.0), transform=shrink))
    assert len(seen) == len(set(seen)) <= 4.0 * 20


def test_memory_is_a_window_for_each_open_clip(tmp_path: Path) -> None:
    film = write_video(tmp_path / "a.mp4", 500, size=(160, 120), gop=25)

    def peak(parts: list[Part]) -> int:
        tracemalloc.start()
        for _ in decode_clips(film, parts, Sampling(fps=10.0, window=4)):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    one, many = peak([(0.0, 1.0)]), peak([(0.5 * k, 0.5 * k + 2.0) for k in range(36)])
    assert many < one + 4 * 4 * 57_600 + 400_000  # four clips at each moment, of four pictures; the plans of 36
