"""How many frames each clip of a pass has lost to damage, as if each had been decoded alone.

Only the frames that must be decoded for a clip count: from the key frame before its first wanted frame to its last
wanted one, without the stretches that it would seek over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supportset.extract.decode.frame_index import FrameIndex
from supportset.extract.decode.seek_plan import split_runs

_START = -(2**63)  # before every tick: the run begins with the file


@dataclass
class _Run:
    """A stretch of frames decoded without a seek for one clip, and its counts; times in ticks."""

    clip: int
    begin: int
    last: int
    first: int | None = None
    time: int = 0
    good: int = 0
    complaints: int = 0

    def restart(self) -> None:
        self.first, self.good, self.complaints = None, 0, 0


class ClipHealth:
    """Counts the frames of one decoding pass for several clips.

    Parameters
    ----------
    index : FrameIndex
    wanted : sequence of list of int
        Frame numbers of each clip, ascending.
    opened : callable
        Called once for each clip, with its place in ``wanted``, before the first packet that it needs is decoded.
    """

    def __init__(self, index: FrameIndex, wanted: Sequence[list[int]], opened: Callable[[int], None]) -> None:
        self._index, self._opened = index, opened
        self._runs: list[list[_Run]] = [
            [
                _Run(clip, _START if run.key is None else run.key, int(index.ticks[run.wanted[-1]]))
                for run in split_runs(index, numbers)
            ]
            for clip, numbers in enumerate(wanted)
        ]
        self._waiting: dict[int, list[_Run]] = {}
        for run in (run for runs in self._runs for run in runs):
            self._waiting.setdefault(run.begin, []).append(run)
        self._active: list[_Run] = []
        self._seen: set[int] = set()

    def packet(self, tick: int | None) -> None:
        """Note that the packet with this presentation time is decoded next; None: the first one of the file.

        A clip's decoding begins with one key frame, found by its exact time: flipped bits may give any other time.
        """
        for run in self._waiting.pop(_START if tick is None else tick, ()):
            self._active.append(run)
            if run.clip not in self._seen:
                self._seen.add(run.clip)
                self._opened(run.clip)

    def reach(self, tick: int) -> None:
        """Note that all packets up to a presentation time are decoded next."""
        for begin in sorted(begin for begin in self._waiting if begin <= tick):
            self.packet(None if begin == _START else begin)

    def frame(self, tick: int, good: bool) -> None:
        """Count a decoded frame."""
        ended = False
        for run in self._active:
            if tick >= run.begin:
                run.first = tick if run.first is None else run.first
                run.time = tick
                run.good, run.complaints = run.good + good, run.complaints + (not good)
                ended |= tick >= run.last
        if ended:
            self._active = [run for run in self._active if run.time < run.last or run.first is None]

    def complaint(self, tick: int | None) -> None:
        """Count a packet that the decoder refused; one before the first frame is no part of the video."""
        if tick is not None and tick < self._index.ticks[0]:
            return
        for run in self._active:
            if tick is None or tick >= run.begin:
                run.complaints += 1

    def restart(self, begin: int | None = None) -> None:
        """Forget the counts of unfinished runs, which are decoded again; with ``begin`` only of those from this key."""
        for run in self._active:
            if begin is None or run.begin == begin:
                run.restart()

    def of(self, clip: int) -> tuple[int, int]:
        """Return how many frames of a clip are lost, and how many were due.

        Without complaints, packets that give no frame are not lost (VP8 hides some).
        """
        lost = expected = 0
        for run in self._runs[clip]:
            if run.first is None:
                continue
            due = self._index.shown_before(run.time + 1) - self._index.shown_before(run.first)
            expected += max(due, run.good + run.complaints)
            lost += max(due - run.good, run.complaints) if run.complaints else 0
        return lost, expected
