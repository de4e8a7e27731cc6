"""Which files the next round is given: those that are whole, and that no process died with."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from supportset.search.ingest.messages import PATIENCE_SECONDS, Result
from supportset.search.ingest.watched import WatchedFolder

DEATHS = 2  # of a process with one file alone, after which that file is given up until it changes

State = tuple[int, int]  # size and time of a file


@dataclass(frozen=True)
class Request:
    """What a round is asked for.

    Attributes
    ----------
    files : list of str
        The files that are whole.
    only : list of str or None
        Files that a process died with: nothing but these is extracted.
    states : dict
        The files as they count when the round is over.
    """

    files: list[str]
    only: list[str] | None
    states: dict[str, State]


class Backlog:
    """What is to be done, by what the folder shows and what rounds left.

    Parameters
    ----------
    folder : WatchedFolder

    Attributes
    ----------
    unsettled : list of str
        Files that are still written, as of the last :meth:`next`.
    incomplete : list of str
        Files of these that have not changed for a while, and end before their container does.
    wake : float
        Time (monotonic) at which one of them may be whole.
    given_up : dict
        Files that processes died with, and their states.
    """

    def __init__(self, folder: WatchedFolder) -> None:
        self._folder = folder
        self.unsettled: list[str] = []
        self.incomplete: list[str] = []
        self.wake = math.inf
        self.given_up: dict[str, State] = {}
        self._known: dict[str, State] | None = None  # as of the last round
        self._left = 0
        self._held: dict[str, State] = {}  # files that end early
        self._suspects: deque[list[str]] = deque()  # tried again together, then each alone
        self._deaths = Counter[str]()

    def next(self) -> Request | None:
        """Return what the next round does; None if there is nothing to do."""
        whole, states = self._whole()
        while self._suspects:
            if only := [path for path in self._suspects[0] if path in whole]:
                return Request([*whole], only, states)
            self._suspects.popleft()
        if self._left or states != self._known:
            return Request([*whole], None, states)
        return None

    def finished(self, request: Request, result: Result) -> None:
        """Note the result of a round."""
        if request.only is not None:
            self._suspects.popleft()
            return
        self._held |= {path: request.states[path] for path in result.incomplete}
        self._known = {path: state for path, state in request.states.items() if path not in result.incomplete}
        self._left = result.left

    def died(self, request: Request, begun: Iterable[str]) -> None:
        """Note that the process died in a round, while it worked on some files."""
        self._left = self._left or 1
        if request.only is None:
            self._suspects.append([*begun])
        elif len(request.only) > 1:
            self._suspects.popleft()
            self._suspects.extend([path] for path in request.only)
        else:
            (alone,) = request.only
            self._deaths[alone] += 1
            if self._deaths[alone] >= DEATHS:
                self._suspects.popleft()
                self.given_up[alone] = request.states[alone]
                del self._deaths[alone]

    def _whole(self) -> tuple[dict[str, State], dict[str, State]]:
        """The whole files, and all that count: a file that is written again counts as it was before."""
        whole, states = dict[str, State](), dict[str, State]()
        self.unsettled, self.incomplete, wait = [], [], math.inf
        for path, seen in self._folder.files.items():
            if self.given_up.get(path) == seen.state:
                continue
            still = self._folder.whole_in(path)
            if not still and self._held.get(path) == seen.state:
                still = max(0.0, seen.mtime_ns / 1e9 + PATIENCE_SECONDS - time.time())
                self.incomplete += [path] if still else []
            if still:
                self.unsettled.append(path)
                wait = min(wait, still)
                if self._known is not None and path in self._known:
                    states[path] = self._known[path]
            else:
                whole[path] = states[path] = seen.state
        self.wake = time.monotonic() + wait
        return whole, states
