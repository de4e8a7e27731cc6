"""Timing several ways to do the same job so that a busy machine favours none of them."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


def _nothing(_: int) -> None:
    """What most contenders have to prepare."""


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Attributes
    ----------
    run : callable
        Does the job of a round, whose number it is given; this is timed.
    prepare : callable
        Called before each run with the number of the round; not timed.
    """

    run: Callable[[int], object]
    prepare: Callable[[int], object] = _nothing


@dataclass
class Timings:
    """Seconds by contender, one number a round; the same place in each list is the same round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Seconds that a contender takes, the median of its rounds."""
        return statistics.median(self.seconds[name])

    def ratio(self, slower: str, faster: str) -> float:
        """How many times as long one takes as the other: the median of the rounds' own ratios.

        The two runs of a round are next to each other in time, so a machine that changes its pace changes neither.
        """
        pairs = zip(self.seconds[slower], self.seconds[faster], strict=True)
        return statistics.median(first / second for first, second in pairs)

    def to_json(self) -> dict[str, dict[str, float]]:
        """Median, quickest and slowest round of each contender, in seconds."""
        return {
            name: {"rounds": len(each), "median_s": statistics.median(each), "min_s": min(each), "max_s": max(each)}
            for name, each in self.seconds.items()
        }


def interleave(contenders: Mapping[str, Contender], rounds: int, *, warm_up: int = 1) -> Timings:
    """Let contenders take turns, in another order each round: nobody always comes after the same one.

    Parameters
    ----------
    contenders : Mapping[str, Contender]
        By name.
    rounds : int
        That count.
    warm_up : int
        Rounds before them that do not; they have the numbers that follow.

    Returns
    -------
    Timings
    """
    timings = Timings({name: [] for name in contenders})
    names = list(contenders)
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again before each run
    try:
        for number in [*range(rounds, rounds + warm_up), *range(rounds)]:
            for name in random.Random(number).sample(names, len(names)):
                seconds = _timed(contenders[name], number)
                if number < rounds:
                    timings.seconds[name].append(seconds)
    finally:
        gc.unfreeze()
    return timings


def _timed(contender: Contender, number: int) -> float:
    contender.prepare(number)
    gc.collect()
    gc.disable()  # a collection in the middle would be counted against whoever runs then
    try:
        started = time.perf_counter()
        result = contender.run(number)
        seconds = time.perf_counter() - started
    finally:
        gc.enable()
    del result  # giving its memory back is not timed
    return seconds
