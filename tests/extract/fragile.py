"""Frame transforms that misbehave where a frame is red, for decode workers (nothing here imports torch)."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shrink:
    """Every n-th pixel of the upper left square."""

    height: int = 8
    width: int = 8

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(frame[:: max(1, frame.shape[0] // 8), :: max(1, frame.shape[1] // 8)][:8, :8])


@dataclass(frozen=True)
class Fragile(Shrink):
    """As :class:`Shrink`, but a frame that is red in the middle is the worker's end, in the way that ``how`` says."""

    how: str = "raise"

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        red, green, blue = frame[frame.shape[0] // 2, frame.shape[1] // 2].astype(int)
        if red > 200 and green < 60 and blue < 60:
            self.misbehave()
        return super().__call__(frame)

    def misbehave(self) -> None:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "segfault":
            print("a decoder's last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.how == "hang":
            time.sleep(3600)
        elif self.how == "memory":
            raise MemoryError
        else:
            raise RuntimeError("this frame is\nred")


class Unloadable:
    """Cannot be made again in another process."""

    def __reduce__(self) -> tuple[object, ...]:
        return sys.exit, ("no such thing here",)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        return frame


@dataclass(frozen=True)
class Slow(Shrink):
    """As :class:`Shrink`, but takes its time."""

    seconds: float = 0.1

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        return super().__call__(frame)


@dataclass(frozen=True)
class Poisons(Shrink):
    """As :class:`Shrink`, but of one colour each: red hangs, green kills, blue runs out of memory, white raises."""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        colour = tuple(frame[frame.shape[0] // 2, frame.shape[1] // 2] > 200)
        how = {
            (True, False, False): "hang",
            (False, True, False): "segfault",
            (False, False, True): "memory",
            (True, True, True): "raise",
        }.get(colour)
        if how is not None and frame.std((0, 1)).max() < 1:
            Fragile(how=how).misbehave()
        return super().__call__(frame)
