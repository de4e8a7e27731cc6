"""Passes over a file for several of its clips, and which of these are retried when a pass fails.

A pass that is killed, hangs or raises costs as few clips as possible:

* Before any clip is begun, the file itself fails (it is being opened, as for each of its clips): all clips fail.
* With one clip begun and not finished, that clip fails. With several, each is decoded again alone.
* Clips that are not begun are decoded together in a new pass; with no clip begun, each is decoded again alone.

Steps that a clip has delivered are not delivered again. So a place that kills the decoder costs the clips that need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

_TOGETHER = 256  # clips of one pass: bounds the memory of overlapping clips, and divides long lists among workers


@dataclass(frozen=True)
class Job:
    """One clip to decode.

    Attributes
    ----------
    number : int
        Not negative, and unique within a run.
    path : str
    start_s : float or None
        Where the clip begins in the file; None: at its start.
    end_s : float or None
        Where the clip ends; None: at the end of the file.
    """

    number: int
    path: str
    start_s: float | None = None
    end_s: float | None = None


class Aftermath(NamedTuple):
    """What a failed pass leaves: jobs that fail with it, and passes to retry."""

    failed: list[Job]
    again: list[Pass]


@dataclass
class Pass:
    """Jobs of one file that one worker decodes together.

    Attributes
    ----------
    name : int
        Number of its first job.
    jobs : dict of int to Job
        Unfinished jobs, by number.
    planned : bool
        Whether a message about a clip has arrived: the file is then open and its packets are read.
    begun : set of int
        Numbers of jobs that need what has been decoded so far.
    given : dict of int to int
        Steps that each job has delivered in this pass.
    """

    name: int
    jobs: dict[int, Job]
    planned: bool = False
    begun: set[int] = field(default_factory=set)
    given: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> Pass:
        """Make a pass that has not begun."""
        numbered = {job.number: job for job in jobs}
        return cls(next(iter(numbered)), numbered)

    def begin(self, number: int) -> None:
        """Note that a job needs what is decoded from here."""
        self.planned = True
        self.begun.add(number)

    def step(self, number: int) -> int:
        """Count a step of a job; return how many steps came before it in this pass."""
        self.planned = True
        before = self.given.get(number, 0)
        self.given[number] = before + 1
        return before

    def end(self, number: int) -> Job:
        """Remove a finished job."""
        self.planned = True
        self.begun.discard(number)
        return self.jobs.pop(number)

    def after_failure(self) -> Aftermath:
        """Divide the unfinished jobs by the rule of this module."""
        left = list(self.jobs.values())
        if len(left) == 1 or not self.planned:
            return Aftermath(left, [])
        begun = [job for job in left if job.number in self.begun]
        others = [job for job in left if job.number not in self.begun]
        together = [Pass.of(others)] if others else []
        if len(begun) == 1:
            return Aftermath(begun, together)
        if not begun:
            return Aftermath([], [Pass.of([job]) for job in others])
        return Aftermath([], [*(Pass.of([job]) for job in begun), *together])


def group_jobs(jobs: Iterable[Job]) -> Iterator[Pass]:
    """Put adjacent jobs of one file into passes, at most 256 in one.

    Parameters
    ----------
    jobs : iterable of Job
        Read one job ahead.
    """
    for _, same in groupby(jobs, key=lambda job: job.path):
        together: list[Job] = []
        for job in same:
            together.append(job)
            if len(together) == _TOGETHER:
                yield Pass.of(together)
                together = []
        if together:
            yield Pass.of(together)
