"""Clips of one file are decoded together: how they are grouped, and what happens when a pass fails.

A pass that is killed, hangs or raises costs as few clips as it can:

* Before any clip was begun, the file itself is to blame (it is being opened and its packets read, as for each of its
  clips alone): all clips of the pass fail.
* With one clip begun and not ended, that clip fails. With several, any may be to blame: each is decoded again alone.
* The clips not begun go on, together, in a pass of their own; with no clip begun they are decoded again alone.

Steps that a clip has given already are not given again. So a poisonous place in a file costs the clips that need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

_TOGETHER = 256  # clips of one pass; bounds the memory of clips that overlap, and shares very long lists among workers


@dataclass(frozen=True)
class Job:
    """One clip to decode.

    Attributes
    ----------
    number : int
        Not negative; the job's name within a run.
    path : str
        The file.
    start_s, end_s : float or None
        The clip's part of it.
    """

    number: int
    path: str
    start_s: float | None = None
    end_s: float | None = None


class Aftermath(NamedTuple):
    """What a failed pass leaves: jobs that fail with it, and passes to try again."""

    failed: list[Job]
    again: list[Pass]


@dataclass
class Pass:
    """Jobs of one file, in the hands of one worker.

    Attributes
    ----------
    name : int
        Number of its first job.
    jobs : dict of int to Job
        By number, those not ended yet.
    planned : bool
        Whether anything has been heard of a clip: the file has then been opened and its packets read.
    begun : set of int
        Numbers of jobs that need what has been decoded so far.
    given : dict of int to int
        Steps that each job has given in this pass.
    """

    name: int
    jobs: dict[int, Job]
    planned: bool = False
    begun: set[int] = field(default_factory=set)
    given: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> Pass:
        """A pass that has not begun."""
        numbered = {job.number: job for job in jobs}
        return cls(next(iter(numbered)), numbered)

    def begin(self, number: int) -> None:
        """Note that what is decoded from now on is needed by a job."""
        self.planned = True
        self.begun.add(number)

    def step(self, number: int) -> int:
        """Count a step of a job; returns how many there were in this pass before it."""
        self.planned = True
        before = self.given.get(number, 0)
        self.given[number] = before + 1
        return before

    def end(self, number: int) -> Job:
        """Take out a job that has ended."""
        self.planned = True
        self.begun.discard(number)
        return self.jobs.pop(number)

    def after_failure(self) -> Aftermath:
        """Divide the jobs that have not ended; see the module's text."""
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
        Taken one ahead.
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
