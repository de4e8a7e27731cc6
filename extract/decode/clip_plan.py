"""Which frames of a video a clip needs, known before any of them is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from supportset.extract.decode.frame_index import FrameIndex
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import spread
from supportset.extract.outcome import DecodeError
from supportset.store.format.status import TOO_SHORT


class Step(NamedTuple):
    """One step of a clip.

    Attributes
    ----------
    frames : (window, H, W, 3) uint8
        RGB; the transform has been applied where there is one.
    start_s : float
        When the step begins, in seconds from the clip's start.
    end_s : float
        When it ends.
    thumbnail : bytes
        JPEG of the frame in the middle; empty where none was asked for.
    """

    frames: np.ndarray
    start_s: float
    end_s: float
    thumbnail: bytes = b""


class Window(NamedTuple):
    """The frames of one step: numbers of the video's frames, ascending; and the step's time in the clip.

    ``shown`` says whether the step gets a thumbnail.
    """

    numbers: list[int]
    start_s: float
    end_s: float
    shown: bool = False

    @property
    def middle(self) -> int:
        """Number of the frame in the middle, which the thumbnail shows."""
        return self.numbers[(len(self.numbers) - 1) // 2]


@dataclass(frozen=True)
class ClipPlan:
    """The frames of one clip.

    Attributes
    ----------
    windows : list of Window
        At least one, in order.
    wanted : list of int
        Frame numbers of all windows, ascending, each once.
    frames : int
        Frames of the file that belong to the clip, sampled or not.
    lost : int
        Frames of the clip that are lost: the demuxer passed over them, or they are beyond the end of a cut file.
    cut : bool
        Whether the clip reaches over the end of a cut file.
    fault : str
        What is wrong with all clips of the file; mostly empty.
    note : str
        On a clip that is complete but not as requested; mostly empty.
    """

    windows: list[Window]
    wanted: list[int]
    frames: int
    lost: int
    cut: bool
    note: str
    fault: str

    @classmethod
    def make(
        cls, index: FrameIndex, start_s: float | None, end_s: float | None, sampling: Sampling, thumbnails: int = 0
    ) -> ClipPlan:
        """Apply the sampling rule to the part of a video from ``start_s`` to ``end_s`` (None: its own start or end).

        At most so many steps as ``thumbnails`` says get one, evenly spread.

        Raises
        ------
        DecodeError
            ``too_short`` if no frame is between them.
        """
        begin = Fraction(0) if start_s is None else max(Fraction(0), _seconds(start_s))
        asked = index.duration if end_s is None else _seconds(end_s)
        end = min(index.duration, asked)
        if asked <= begin:
            raise DecodeError(
                TOO_SHORT, f"the clip ends at {float(asked):g} s, not after its start at {float(begin):g} s"
            )
        if begin >= index.duration:
            length = float(index.duration)
            raise DecodeError(TOO_SHORT, f"the clip starts at {float(begin):g} s, but the video ends at {length:.2f} s")
        first = max(0, index.shown_before(index.tick_at(begin) + 1))
        last = max(first, index.shown_before(index.tick_at(end)))
        windows = []
        for span in sampling.steps(end - begin, last - first + 1):
            middle = min(max(index.shown_before(index.tick_at(begin + span.middle)), first), last)
            windows.append(Window(sampling.window_at(middle, first, last), float(span.start), float(span.end)))
        for number in spread(len(windows), thumbnails):
            windows[number] = windows[number]._replace(shown=True)
        wanted = sorted({number for window in windows for number in window.numbers})
        rest = asked - index.duration
        cut = index.cut and (end_s is None or rest > 0)
        notes = [index.note] if index.note else []
        if end_s is not None and rest > 1 and rest > (asked - begin) / 10:
            notes.append(
                f"the video ends at {float(index.duration):.2f} s, before the clip's end at {float(asked):g} s"
            )
        lost = index.gone_between(index.tick_at(begin), None if end_s is None else index.tick_at(asked))
        lost += index.lost if cut else 0
        return cls(windows, wanted, last - first + 1, lost, cut, "; ".join(notes), index.fault)

    def thumbnails_only(self) -> ClipPlan:
        """Return the plan of the steps that get a thumbnail, each of the one frame that it shows."""
        windows = [window._replace(numbers=[window.middle]) for window in self.windows if window.shown]
        return replace(self, windows=windows, wanted=sorted({window.middle for window in windows}))


class ClipAssembly:
    """Joins the pictures of one clip into steps, and holds no picture longer than a window needs it."""

    def __init__(self, plan: ClipPlan) -> None:
        self.plan = plan
        self._shown = {window.middle for window in plan.windows if window.shown}
        self._windows = iter(plan.windows)
        self._next: Window | None = next(self._windows)
        self._held: dict[int, tuple[np.ndarray, bytes]] = {}

    @property
    def complete(self) -> bool:
        """Whether all steps have been yielded."""
        return self._next is None

    def shows(self, number: int) -> bool:
        """Whether a step gets a thumbnail of this frame."""
        return number in self._shown

    def take(self, number: int, picture: np.ndarray, thumbnail: bytes = b"") -> Iterator[Step]:
        """Take the picture of a wanted frame, in ascending order, and yield the steps that it completes."""
        self._held[number] = picture, thumbnail
        while self._next is not None and self._next.numbers[-1] <= number:
            window = self._next
            small = self._held[window.middle][1] if window.shown else b""
            yield Step(np.stack([self._held[k][0] for k in window.numbers]), window.start_s, window.end_s, small)
            self._next = next(self._windows, None)
            for old in [k for k in self._held if self._next is None or k < self._next.numbers[0]]:
                del self._held[old]


def _seconds(value: float) -> Fraction:
    return Fraction(str(float(value)))  # the decimal in the table, not the nearest binary fraction
