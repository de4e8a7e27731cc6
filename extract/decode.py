"""From a file to the steps of a clip: the frames that the sampling rule picks, and no others, in bounded memory."""

from __future__ import annotations

import stat
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from extract.frame_index import Beat, FrameIndex, read_index
from extract.frame_runs import Health, wanted_frames
from extract.images import is_image, read_image
from extract.outcome import DAMAGED, TOO_SHORT, UNREADABLE, DecodeError
from extract.pictures import PictureMaker
from extract.sampling import Sampling

Picture = Callable[[np.ndarray], np.ndarray]
_IMAGE_SECONDS = Fraction(1)  # a still image has no duration: its one step is given a second

__all__ = ["DecodeError", "Step", "decode_clip"]


class Step(NamedTuple):
    """One step of a clip.

    Attributes
    ----------
    frames : (window, H, W, 3) uint8
        RGB; what the transform makes of each frame where one was given.
    start_s, end_s : float
        The time the step stands for, in seconds from the clip's start.
    """

    frames: np.ndarray
    start_s: float
    end_s: float


def decode_clip(
    path: Path | str,
    start_s: float | None = None,
    end_s: float | None = None,
    sampling: Sampling | None = None,
    *,
    transform: Picture | None = None,
    beat: Beat | None = None,
) -> Generator[Step, None, str]:
    """Yield the steps of a clip in order; :mod:`extract.sampling` states which frames they hold.

    Memory does not grow with the length of the video: at most one window of (transformed) frames is held.

    Parameters
    ----------
    path : Path or str
        A video, or an image (a clip of one frame).
    start_s, end_s : float, optional
        The clip's part of the file in seconds from its first frame; None is the file's own start or end.
    sampling : Sampling, optional
        Default: one frame a second.
    transform : callable, optional
        Applied to each picked (H, W, 3) uint8 RGB frame, once.
    beat : callable, optional
        Called often while work goes on, as a sign of life.

    Yields
    ------
    Step

    Returns
    -------
    str
        A note on a clip that is whole but not as asked for (the video ends before the clip does), mostly empty.

    Raises
    ------
    DecodeError
        ``missing``, ``unreadable``, ``no_video`` or ``too_short`` before the first step. ``damaged`` **after** the last
        step: all steps there are have been yielded, the caller keeps or drops them. In place of a frame
        that is lost the one before it is used.
    """
    path, sampling = Path(path), sampling or Sampling()
    beat, transform = beat or _nothing, transform or _as_is
    _refuse_endless(path)
    if is_image(path):
        picture = transform(read_image(path))
        yield Step(np.stack([picture] * sampling.window), 0.0, float(_IMAGE_SECONDS))
        return ""
    index = read_index(path, beat)
    plan = _Plan.make(index, start_s, end_s, sampling)
    health, maker, held = Health(), PictureMaker(), _Held()
    steps = iter(plan.windows)
    window: _Window | None = next(steps)
    for number, frame in wanted_frames(path, index, plan.wanted, health, beat):
        if frame is not held.frame:
            held.frame, held.picture = frame, transform(maker.rgb(frame))
        held.pictures[number] = held.picture
        while window is not None and window.numbers[-1] <= number:
            yield Step(np.stack([held.pictures[k] for k in window.numbers]), window.start_s, window.end_s)
            window = next(steps, None)
            held.forget(window.numbers[0] if window else len(index.ticks))
    lost, total = health.lost + plan.lost, max(health.expected, plan.frames) + plan.lost
    if lost:
        cause = "the file is cut short" if plan.cut else "corrupt data"
        raise DecodeError(DAMAGED, f"{cause}: {lost} of {total} frames lost ({lost / total:.1%})")
    if plan.cut:
        raise DecodeError(DAMAGED, "the file is cut short, and does not tell how many frames are lost")
    return plan.note


class _Window(NamedTuple):
    numbers: list[int]  # frames of the video, ascending
    start_s: float
    end_s: float


@dataclass(frozen=True)
class _Plan:
    """Which frames a clip needs, known before any is decoded."""

    windows: list[_Window]
    wanted: list[int]  # frame numbers, ascending, each once
    frames: int  # of the clip, in the file
    lost: int  # frames of the clip beyond the end of a cut file
    cut: bool
    note: str

    @classmethod
    def make(cls, index: FrameIndex, start_s: float | None, end_s: float | None, sampling: Sampling) -> _Plan:
        begin = Fraction(0) if start_s is None else max(Fraction(0), _seconds(start_s))
        asked = index.duration if end_s is None else _seconds(end_s)
        end = min(index.duration, asked)
        if asked <= begin:
            told = f"the clip ends at {float(asked):g} s, not after its start at {float(begin):g} s"
            raise DecodeError(TOO_SHORT, told)
        if begin >= index.duration:
            length = float(index.duration)
            raise DecodeError(TOO_SHORT, f"the clip starts at {float(begin):g} s, but the video ends at {length:.2f} s")
        first = max(0, index.shown_before(index.tick_at(begin) + 1))
        last = max(first, index.shown_before(index.tick_at(end)))
        windows = []
        for span in sampling.steps(end - begin, last - first + 1):
            middle = min(max(index.shown_before(index.tick_at(begin + span.middle)), first), last)
            windows.append(_Window(sampling.window_at(middle, first, last), float(span.start), float(span.end)))
        wanted = sorted({number for window in windows for number in window.numbers})
        rest = asked - index.duration
        cut = index.cut and (end_s is None or rest > 0)
        note = ""
        if end_s is not None and rest > 1 and rest > (asked - begin) / 10:
            note = f"the video ends at {float(index.duration):.2f} s, before the clip's end at {float(asked):g} s"
        return cls(windows, wanted, last - first + 1, index.lost if cut else 0, cut, note)


@dataclass
class _Held:
    frame: Any = None
    picture: Any = None
    pictures: dict[int, np.ndarray] = field(default_factory=dict)

    def forget(self, before: int) -> None:
        for number in [n for n in self.pictures if n < before]:
            del self.pictures[number]


def _refuse_endless(path: Path) -> None:
    """Refuse pipes, sockets and devices: opening or reading one may wait for ever. What is absent is told later."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DecodeError(UNREADABLE, "a pipe, socket or device, not a file")


def _seconds(value: float) -> Fraction:
    return Fraction(str(float(value)))  # the decimal in the table, not its binary neighbour


def _nothing() -> None:
    return None


def _as_is(picture: np.ndarray) -> np.ndarray:
    return picture
