"""The sampling rule: which moments of a clip become steps of its features.

The rule
--------
Time zero of a video is the moment its first frame is shown. A clip is the half-open span [``start_s``, ``end_s``) of
that time, cut at the end of the last frame; without a start and an end it is the whole video. Its length is d.

*Steps.* With ``fps`` = F, step k covers [k/F, (k+1)/F) from the clip's start, and there is a step for every k whose
middle (k + 1/2)/F is not after the clip's end; the last step ends where the clip ends. A clip shorter than half a
step is one step. With ``frames`` = N the clip is cut into N equal steps, or into as many as it has frames where
those are fewer. A clip that would have more than ``max_steps`` steps at F is cut into ``max_steps`` equal steps instead
(thinned evenly, never cut off).

*Frames.* The frame of a step is the one being shown just before the step's middle: the last frame of the clip whose
presentation time is smaller than the middle, or the clip's first frame if there is none. On a whole video this is what
``ffmpeg -vf fps=F`` selects. Where F is above the video's own rate, a frame serves several steps.

*Windows.* For a clip model a step has ``window`` frames, ``stride`` frames of the video apart (1: consecutive frames).
The frame above is the window's middle: window // 2 frames follow it and the rest are before it. A window that
reaches over an end of the clip is moved inside; in a clip shorter than the window it starts with the first frame, and
the last frame is repeated.

Times are compared as exact fractions of a second, never as floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from supportset.store.errors import UsageError


class Span(NamedTuple):
    """One step: its start and end in seconds from the clip's start, and the moment whose frame it shows."""

    start: Fraction
    end: Fraction
    middle: Fraction


@dataclass(frozen=True)
class Sampling:
    """Steps of a clip, by rate or by count; the module's text states the rule.

    Parameters
    ----------
    fps : float, optional
        Steps per second. The default, where ``frames`` is not given either, is 1.
    frames : int, optional
        Number of steps of every clip, instead of ``fps``.
    max_steps : int
        Most steps a clip may have with ``fps``; longer clips are thinned evenly.
    window : int
        Frames of one step: 1 for frame models, the model's clip length for clip models.
    stride : int, optional
        Distance of a window's frames, in frames of the video; default 1.

    Raises
    ------
    UsageError
        If a value is out of range, or both ``fps`` and ``frames`` are given.

    Examples
    --------
    >>> Sampling().to_json()
    {'fps': 1.0, 'max_steps': 512}
    >>> [float(step.middle) for step in Sampling(frames=4).steps(Fraction(10), frames=250)]
    [1.25, 3.75, 6.25, 8.75]
    """

    fps: float | None = None
    frames: int | None = None
    max_steps: int = 512
    window: int = 1
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.frames is not None:
            raise UsageError(f"sampling by fps={self.fps} and by frames={self.frames} at once: give one of them")
        if self.fps is None and self.frames is None:
            object.__setattr__(self, "fps", 1.0)
        if self.fps is not None and not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise UsageError(f"sampling needs an fps above 0 and at most 1000, not {self.fps}")
        for name in ("frames", "max_steps", "window", "stride"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"sampling needs a whole number of at least 1 for {name}, not {value!r}")

    def to_json(self) -> dict[str, Any]:
        """Describe the sampling for the feature card: only what decides the frames."""
        described: dict[str, Any] = {"frames": self.frames}
        if self.fps is not None:
            described = {"fps": float(self.fps), "max_steps": self.max_steps}
        if self.window > 1:
            described |= {"window": self.window, "stride": self.stride or 1}
        return described

    def steps(self, duration: Fraction, frames: int) -> list[Span]:
        """Cut a clip into steps.

        Parameters
        ----------
        duration : Fraction
            The clip's length in seconds, not negative.
        frames : int
            How many frames of the video the clip has, at least 1.

        Returns
        -------
        list of Span
            At least one step, in order, back to back from 0 to ``duration``.
        """
        if self.fps is None:
            return _equal(duration, min(self.frames or 1, frames))
        rate = Fraction(str(self.fps))  # the decimal that the user wrote, not the nearest binary fraction
        count = max(1, math.floor(duration * rate + Fraction(1, 2)))
        if count > self.max_steps or duration * rate < Fraction(1, 2):
            return _equal(duration, min(count, self.max_steps))
        spans = [Span(k / rate, (k + 1) / rate, (2 * k + 1) / (2 * rate)) for k in range(count)]
        return [*spans[:-1], spans[-1]._replace(end=duration)]

    def window_at(self, middle: int, first: int, last: int) -> list[int]:
        """Return the frame numbers of the window around frame ``middle`` in a clip of frames ``first`` to ``last``.

        Examples
        --------
        >>> Sampling(window=4, stride=2).window_at(50, first=0, last=99)
        [48, 50, 52, 54]
        >>> Sampling(window=4).window_at(1, first=0, last=2)
        [0, 1, 2, 2]
        """
        stride = self.stride or 1
        start = middle - (self.window - 1) // 2 * stride
        start = max(first, min(start, last - (self.window - 1) * stride))
        return [min(start + j * stride, last) for j in range(self.window)]


def _equal(duration: Fraction, count: int) -> list[Span]:
    step = duration / count
    return [Span(k * step, (k + 1) * step, k * step + step / 2) for k in range(count)]
