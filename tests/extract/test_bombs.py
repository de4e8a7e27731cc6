"""Small files that would take gigabytes or hours: each costs its clip, with a status, and never the run."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supportset.extract.decode.sampling import Sampling
from supportset.extract.outcome import Outcome
from supportset.extract.readers.captions_file import read_captions
from supportset.extract.workers.decode_worker import Job, Setup
from supportset.extract.workers.pool import DecodePool, StepFrames
from tests.extract.films import outcome_of, write_video
from tests.extract.fragile import Shrink

pytestmark = pytest.mark.slow

DOT = b"!\xf9\x04\0\x0a\0\0\0" + b"," + bytes(4) + b"\1\0\1\0" + b"\0" + b"\2\2\x44\1\0"  # a picture of one pixel


def canvas(path: Path, side: int, frames: int) -> Path:
    """A GIF of a few bytes a frame; each is as large as the canvas when it is decoded."""
    size = side.to_bytes(2, "little") * 2
    path.write_bytes(b"GIF89a" + size + b"\x91\0\0" + bytes(range(12)) + DOT * frames + b";")
    return path


def outcomes(films: list[Path], **limits: float) -> list[Outcome]:
    setup = Setup(Sampling(fps=5.0), Shrink(), (1, 8, 8, 3), 4, **limits)  # type: ignore[arg-type]
    ends: dict[int, Outcome] = {}
    with DecodePool(setup, workers=1) as pool:
        for event in pool.run(Job(number, str(film)) for number, film in enumerate(films)):
            if not isinstance(event, StepFrames):
                ends[event.number] = event.outcome
    return [ends[number] for number in range(len(films))]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "film.mp4", 30)


def test_a_small_file_that_decodes_for_long_ends_as_timeout(tmp_path: Path, film: Path) -> None:
    bomb = canvas(tmp_path / "bomb.gif", 2000, 3000)
    assert bomb.stat().st_size < 100_000
    ended, after = outcomes([bomb, film], cpu_seconds=1.0)
    assert ended.status == "timeout"
    assert ended.message == f"more than 1 s of CPU time for a file of {bomb.stat().st_size:,} bytes; see --timeout"
    assert after == Outcome()


def test_all_clips_of_such_a_file_end_at_once(tmp_path: Path) -> None:
    """They share one pass, and so one budget: not each has its own."""
    bomb = canvas(tmp_path / "bomb.gif", 2000, 3000)
    setup = Setup(Sampling(fps=5.0), Shrink(), (1, 8, 8, 3), 4, cpu_seconds=1.0)
    jobs = [Job(number, str(bomb), 250.0 + number, 280.0) for number in range(20)]
    with DecodePool(setup, workers=1) as pool:
        ends = [event for event in pool.run(iter(jobs)) if not isinstance(event, StepFrames)]
    assert [end.outcome.status for end in ends] == ["timeout"] * 20
    assert sum(end.seconds for end in ends) < 20 * 1.0


def test_a_larger_file_has_more_time(tmp_path: Path) -> None:
    film = canvas(tmp_path / "a.gif", 600, 150)
    with film.open("ab") as file:
        file.write(bytes(3_000_000))
    short, long = (outcomes([film], cpu_seconds=seconds)[0].status for seconds in (1e-3, 100.0))
    assert (short, long) == ("timeout", "ok")


def test_large_frames_end_as_out_of_memory(tmp_path: Path, film: Path) -> None:
    video = canvas(tmp_path / "large.gif", 8000, 2)
    still = tmp_path / "large.png"
    Image.new("1", (13_000, 13_000)).save(still)
    ended = outcomes([video, still, film], memory=400 * 2**20)
    assert [end.status for end in ended] == ["out_of_memory", "out_of_memory", "ok"], ended
    assert ended[0].message.endswith("it may take 0.390625 GiB")


def test_a_header_of_a_picture_that_is_too_large_is_refused(tmp_path: Path) -> None:
    Image.new("1", (10, 10)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    (tmp_path / "a.png").write_bytes(data)
    status, message, _ = outcome_of(tmp_path / "a.png")
    assert status in ("unreadable", "damaged")
    assert message


@pytest.mark.parametrize("value", ['"' + "x" * 3_000_000 + '"', "[" + "1," * 999_999 + "1]"], ids=["text", "list"])
def test_a_caption_of_megabytes_costs_its_row(tmp_path: Path, value: str) -> None:
    lines = [f'{{"path": "a.mp4", "caption": {value}}}', '{"path": "a.mp4", "caption": "a dog runs"}']
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    read = read_captions(tmp_path / "captions.jsonl")
    assert [row.text for row in read.rows] == ["a dog runs"]
    (fault,) = read.faults
    assert fault.startswith("line 1: text ")
    assert len(fault) < 200


def test_hundreds_of_hours_in_a_small_file_are_thinned(tmp_path: Path) -> None:
    ticks = [0, 40, 400 * 3_600_000, 400 * 3_600_000 + 40]
    film = write_video(tmp_path / "a.mkv", 4, ticks=ticks, base=Fraction(1, 1000), gop=1)
    since = time.process_time()
    _, _, steps = outcome_of(film, Sampling(fps=25.0, max_steps=64))
    assert len(steps) == 64
    assert steps[-1].end_s == pytest.approx(400 * 3600, rel=1e-3)
    assert time.process_time() - since < 60
    assert len({step.frames.tobytes() for step in steps}) <= 4
    assert np.isfinite([step.start_s for step in steps]).all()
