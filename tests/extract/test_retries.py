"""Clips of one file in decode workers: one pass, and a failure costs only the clips that need the place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.workers.decode_worker import ClipResult, Job, Setup
from supportset.extract.workers.pool import DecodePool, StepFrames
from supportset.extract.workers.retries import Pass, group_jobs
from tests.extract.films import picture
from tests.extract.fragile import Fragile, Shrink

pytestmark = pytest.mark.slow

FPS = Sampling(fps=5.0)
PARTS: list[tuple[float | None, float | None]] = [
    (0.0, 1.0),
    (0.5, 3.5),
    (1.6, 3.0),
    (2.6, 4.0),
    (3.4, 5.0),
    (4.2, None),
]
RED_AT = 2.5  # seconds: parts 1 and 2 hold it, 0 has ended, the others begin later


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds with a key frame every 0.4 s, red for 0.2 s."""
    path = tmp_path_factory.mktemp("films") / "red.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 10
        for number in range(150):
            image = picture(number) // 2
            if RED_AT * 25 - 2 <= number < RED_AT * 25 + 3:
                image[:] = (255, 0, 0)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    return path


Decoded = tuple[dict[int, list[np.ndarray]], dict[int, ClipResult]]


def decode(transform: Callable[[np.ndarray], np.ndarray], jobs: list[Job], **options: float) -> Decoded:
    steps: dict[int, list[np.ndarray]] = {job.number: [] for job in jobs}
    ends: dict[int, ClipResult] = {}
    with DecodePool(Setup(FPS, transform, (1, 8, 8, 3), 3), int(options.pop("workers", 1)), **options) as pool:
        for event in pool.run(iter(jobs)):
            assert event.number not in ends
            if isinstance(event, StepFrames):
                steps[event.number].append(event.frames.copy())
            else:
                ends[event.number] = event
    assert set(ends) == {job.number for job in jobs}
    return steps, ends


def jobs_of(film: Path) -> list[Job]:
    return [Job(10 + place, str(film), *part) for place, part in enumerate(PARTS)]


def check_frames(film: Path, steps: list[np.ndarray], part: tuple[float | None, float | None]) -> None:
    expected = [step.frames for step in decode_clip(film, *part, FPS, transform=Shrink())]
    np.testing.assert_array_equal(np.stack(steps), np.stack(expected))


def test_clips_of_one_file_are_one_pass(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[int]] = []
    grouped = Pass.of

    def note(jobs: list[Job]) -> Pass:
        made = grouped(jobs)
        passes.append(list(made.jobs))
        return made

    monkeypatch.setattr(Pass, "of", note)
    steps, ends = decode(Shrink(), jobs_of(film))
    assert passes == [[10, 11, 12, 13, 14, 15]]
    for place, part in enumerate(PARTS):
        assert ends[10 + place].outcome.status == "ok"
        check_frames(film, steps[10 + place], part)
        assert ends[10 + place].seconds > 0
    assert len({end.hash for end in ends.values()}) == 1


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("segfault", "crashed", "signal 11: a decoder's last words"),
        ("hang", "timeout", "no progress for 0.5 s"),
        ("raise", "error", "RuntimeError: this frame is red"),
        ("memory", "out_of_memory", "memory"),
    ],
)
def test_a_poisonous_place_costs_the_clips_that_need_it(film: Path, how: str, status: str, said: str) -> None:
    steps, ends = decode(Fragile(how=how), jobs_of(film), timeout=0.5)
    assert [ends[10 + place].outcome.status for place in range(6)] == ["ok", status, status, "ok", "ok", "ok"]
    for place, part in enumerate(PARTS):
        if ends[10 + place].outcome.status == "ok":
            check_frames(film, steps[10 + place], part)
        else:
            assert said in ends[10 + place].outcome.message
            assert len(steps[10 + place]) <= 15, "steps that came before are not given again"


def test_one_begun_clip_is_blamed_at_once(film: Path) -> None:
    """And the others continue in one pass: the poisonous place is met once."""
    jobs = [Job(0, str(film), 0.0, 1.0), Job(1, str(film), 2.0, 3.0), Job(2, str(film), 4.0, 5.0)]
    _, ends = decode(Fragile(how="hang"), jobs, timeout=0.5)
    assert [ends[number].outcome.status for number in range(3)] == ["ok", "timeout", "ok"]


def test_a_file_that_cannot_be_opened_is_tried_once(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (255, 0, 0)).save(tmp_path / "red.png")
    jobs = [Job(number, str(tmp_path / "red.png")) for number in range(50)]
    _, ends = decode(Fragile(how="hang"), jobs, timeout=0.5)
    assert {end.outcome.status for end in ends.values()} == {"timeout"}  # tried one by one it would be 25 s and more


def test_files_are_kept_apart(film: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("words")
    jobs = [Job(0, str(film), 0.0, 1.0), Job(1, str(tmp_path / "text.mp4")), Job(2, str(film), 0.5, 1.5)]
    steps, ends = decode(Shrink(), jobs, workers=2)
    assert [ends[number].outcome.status for number in range(3)] == ["ok", "unreadable", "ok"]
    check_frames(film, steps[2], (0.5, 1.5))


def test_grouping() -> None:
    jobs = [Job(number, path) for number, path in enumerate("aabccca")]
    assert [list(one.jobs) for one in group_jobs(jobs)] == [[0, 1], [2], [3, 4, 5], [6]]
    many = [len(one.jobs) for one in group_jobs(Job(number, "a") for number in range(600))]
    assert many == [256, 256, 88]


@dataclass
class State:
    begun: list[int]
    ended: list[int]
    failed: list[int]
    again: list[list[int]]
    heard: bool = True


@pytest.mark.parametrize(
    "state",
    [
        State([], [], [0, 1, 2, 3], [], heard=False),
        State([], [], [], [[0], [1], [2], [3]]),
        State([0], [], [0], [[1, 2, 3]]),
        State([0, 1], [0], [1], [[2, 3]]),
        State([0, 1], [], [], [[0], [1], [2, 3]]),
        State([1, 3], [], [], [[1], [3], [0, 2]]),
        State([0, 1, 2], [0, 1, 2], [3], []),
        State([0], [0], [], [[1], [2], [3]]),
    ],
)
def test_what_a_failed_pass_leaves(state: State) -> None:
    one = Pass.of([Job(number, "a") for number in range(4)])
    one.planned = state.heard
    for number in state.begun:
        one.begin(number)
    for number in state.ended:
        one.end(number)
    failed, again = one.after_failure()
    assert [job.number for job in failed] == state.failed
    assert [list(rest.jobs) for rest in again] == state.again
