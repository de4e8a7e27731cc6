"""The slowest stage of a run, from the times that the stages wait for each other.

The model waits for frames, computes, or waits for the store to take its features. The decode workers work, or wait for
room because the model has not taken their frames. Of two stages, the one that waits less is the slower one.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import astuple, dataclass

DECODING, MODEL, WRITING = "decoding", "the model", "writing"

_RECENT_SECONDS = 10.0
_ENOUGH_SECONDS = 1.0  # seconds; a shorter run gives no statement
_IDLE = 0.1  # share of the time from which waiting counts


@dataclass(frozen=True)
class Spent:
    """Stage times of a pipeline in seconds, or the sum of several.

    Attributes
    ----------
    starting : float
        Before the first batch of frames.
    computing : float
        The model computed; copies to and from the device included.
    frames : float
        The model waited for frames.
    store : float
        The model waited for the store.
    room : float
        The decode workers waited for the model, averaged over them; overlaps the other times.
    """

    starting: float = 0.0
    computing: float = 0.0
    frames: float = 0.0
    store: float = 0.0
    room: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Spent) -> Spent:
        return Spent(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def running(self) -> float:
        """Seconds from the first batch on."""
        return self.computing + self.frames + self.store

    def slowest(self) -> str | None:
        """The slowest stage; None if no stage is clearly the slowest."""
        if self.running < _ENOUGH_SECONDS:
            return None
        if self.store > max(self.frames, _IDLE * self.running):
            return WRITING
        return DECODING if self.frames > max(self.room, _IDLE * self.running) else MODEL


class Pace:
    """Adds up the stage times of a run."""

    def __init__(self) -> None:
        self.total = Spent()
        self._recent: deque[tuple[float, Spent]] = deque()

    def add(self, spent: Spent) -> None:
        """Add the times of a pipeline of the run."""
        now = time.monotonic()
        self._recent.append((now, self.total))
        self.total += spent
        while now - self._recent[0][0] > _RECENT_SECONDS and len(self._recent) > 1:
            self._recent.popleft()

    def now(self) -> str | None:
        """The slowest stage at present; None if no stage is clearly the slowest."""
        return (self.total - self._recent[0][1]).slowest() if self._recent else None

    def in_words(self, workers: int) -> str | None:
        """Report the slowest stage, by how much, and what would help; None for a run that is too short.

        Parameters
        ----------
        workers : int
            Decode processes of each model.
        """
        spent, slowest = self.total, self.total.slowest()
        if slowest is None:
            return None
        waited, busy, room = (share / spent.running for share in (spent.frames, spent.computing, spent.room))
        if slowest == WRITING:
            return f"writing set the pace: the model waited for the store {spent.store / spent.running:.0%} of the time"
        if max(waited, room) < _IDLE:
            return f"decoding and the model kept pace with each other: waits of {waited:.0%} and {room:.0%} of the time"
        if slowest == DECODING:
            more = min(1 / (workers + 1), waited)
            return (
                f"decoding set the pace: the model waited for frames {waited:.0%} of the time; one more decode worker "
                f"({workers + 1:,}), with a core of its own, could save up to {more:.0%} of it"
            )
        saving = f"could save at most {waited:.0%}" if waited >= 0.005 else "would save nothing"
        return (
            f"the model set the pace: it was at work {busy:.0%} of the time, and the decode workers waited for it "
            f"{room:.0%}; faster decoding {saving}"
        )
