"""Keeps a folder of videos in the store while a server runs: what is new, changed or gone there is so in the search."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from signal import Signals
from typing import Any, Self

from supportset.search.ingest.backlog import Backlog, Request
from supportset.search.ingest.messages import SHARD_SECONDS, Gone, Order, Result
from supportset.search.ingest.process import Child
from supportset.search.ingest.refreshing import Refreshing
from supportset.search.ingest.status import Status
from supportset.search.ingest.watched import SETTLE_SECONDS, WatchedFolder
from supportset.search.ingest.watching import Watching
from supportset.store.errors import SupportsetError
from supportset.store.format.status import WITH_FEATURES

FIRST_FILES, MOST_FILES = 4, 2000  # of a round: the first one, so that something is there soon, and any
ROUND_SECONDS, OVERHEAD = 30.0, 10  # aim of a round: so long, and so many times what it takes to begin
RESCAN_SECONDS, BLIND_SECONDS = 30.0, 5.0  # between two looks where changes are reported, and where they are not
LOOK_SHARE = 10  # a look that takes a second is followed by ten seconds without one
RETRY_SECONDS = 60.0  # after an error of the store, or an encoder that cannot be loaded
BACKOFF_SECONDS = 1.0, 60.0  # after the first death of the process in a row, doubled up to the second
TELL_SECONDS = 20.0  # between two lines on the terminal
IDLE_SECONDS = 600.0  # without work, after which the process ends and frees its memory

_log = logging.getLogger(__name__)


class Ingest:
    """A thread that watches a folder, and a process that extracts what is new in it.

    Parameters
    ----------
    order : Order
        Folder, store, name of the dataset, encoder.
    changed : callable, optional
        Takes the name of the feature set when there is something new to search, or less; called from a thread.
    tell : callable, optional
        Takes lines for the terminal.
    gone : {"auto", "mark"}
        At the start: whether many lost videos are waited for, as a disk may not be mounted, or dropped.
    settle_seconds : float
        A file is taken when it has not changed for so long.

    Examples
    --------
    >>> with Ingest(Order("/home/me/Videos", "features", "Videos"), refresh) as ingest:      # doctest: +SKIP
    ...     ingest.status()["phase"]
    'extracting'
    """

    def __init__(
        self,
        order: Order,
        changed: Callable[[str], object] = lambda features: None,
        *,
        tell: Callable[[str], None] = lambda line: None,
        gone: Gone = "auto",
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._order, self._gone, self._say = order, gone, tell
        store = None if "://" in order.store else Path(order.store)
        self._folder = WatchedFolder(Path(order.folder), settle_seconds, store)
        self._backlog = Backlog(self._folder)
        self._state = Status(folder=order.folder, dataset=order.name, encoder=order.encoder)
        self._events = SimpleQueue[tuple[Child | None, dict[str, Any]]]()
        self._watching = Watching(self._folder, lambda: self._events.put((None, {"event": "files"})))
        self._refreshing = Refreshing(changed, self._error)
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._stopped = self._waits = False
        self._child: Child | None = None
        self._request: Request | None = None  # of the round that runs
        self._begun: dict[str, None] = {}  # files that it works on
        self._deaths = 0  # in a row
        self._features = ""  # name of the set that is written
        self._most = FIRST_FILES
        self._loading_told = False
        self._told = self._sent = self._planned = self._refreshed = self._worked = 0.0  # times of the last events
        self._look_at = self._look_from = self._not_before = 0.0

    def status(self) -> dict[str, Any]:
        """What the status page tells; see :meth:`supportset.search.ingest.status.Status.to_json`."""
        return self._state.to_json()

    @property
    def features(self) -> str | None:
        """Name of the feature set, once something is in it."""
        features: str | None = self._state["features"]
        return features

    @property
    def pid(self) -> int | None:
        """Number of the extracting process; None where none runs."""
        child = self._child
        return child.pid if child else None

    def start(self) -> None:
        """Begin."""
        self._watching.start()
        self._refreshing.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop; the process seals what is complete, for some seconds at most."""
        self._stopped = True
        self._events.put((None, {"event": "stop"}))
        self._thread.join()
        self._watching.stop()
        self._refreshing.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            while not self._stopped:
                try:
                    self._step()
                    child, event = self._events.get(timeout=self._pause())
                    if child is None or child is self._child:
                        getattr(self, f"_on_{event.pop('event')}")(**event)
                except Empty:
                    continue
                except (SupportsetError, OSError) as error:
                    self._wait(str(error), BLIND_SECONDS)
                except Exception as error:  # a fault of ours must not end the watching without a word
                    _log.exception("the watching of %s failed", self._order.folder)
                    self._wait(f"a fault of the program: {type(error).__name__}: {error}", RETRY_SECONDS)
        finally:
            if self._child is not None:
                self._child.stop()

    def _step(self) -> None:
        """Look at the folder if it is time, and begin a round if there is something to do."""
        if self._request is not None:
            return
        now = time.monotonic()
        if now >= self._look_at or (now >= self._backlog.wake and not self._folder.look_again(self._backlog.unsettled)):
            self._look(now)
        if now < self._not_before:
            return
        request = self._backlog.next()
        waited, self._waits = self._waits, False
        self._state.update(
            files=len(self._folder.files), settling=self._backlog.unsettled, incomplete=self._backlog.incomplete
        )
        if request is not None:
            self._begin(request)
        elif waited:  # for what is there again, as it was
            self._state.update(phase="idle", message="", error=None)
        elif self._child is not None and now - self._worked >= IDLE_SECONDS:
            self._child.release()
            self._child = None

    def _pause(self) -> float:
        """Seconds until the next step without an event."""
        if self._request is not None:
            return RESCAN_SECONDS
        now = time.monotonic()
        begins = self._not_before if self._not_before > now else math.inf
        return max(0.05, min(max(self._backlog.wake, self._not_before), self._look_at, begins) - now)

    def _look(self, now: float) -> None:
        live = self._watching.live
        self._state.update(watching="as they happen" if live else f"every {BLIND_SECONDS:g} s")
        self._look_at = now + BLIND_SECONDS
        self._folder.look()
        ended = time.monotonic()
        self._look_from = ended + LOOK_SHARE * (ended - now)
        self._look_at = max(self._look_from, now + (RESCAN_SECONDS if live else BLIND_SECONDS))

    def _begin(self, request: Request) -> None:
        if self._child is None:
            self._state.update(phase="starting")
            self._child = Child(asdict(self._order), lambda child, event: self._events.put((child, event)))
        self._request, self._sent = request, time.monotonic()
        self._planned = self._sent
        self._begun.clear()
        self._child.send({"files": request.files, "most": self._most, "gone": self._gone, "only": request.only})

    def _on_files(self) -> None:
        self._look_at = min(self._look_at, max(time.monotonic(), self._look_from))

    def _on_stop(self) -> None:
        pass  # the loop ends

    def _on_phase(self, phase: str) -> None:
        if phase == "loading the encoder" and not self._loading_told:
            self._loading_told = True  # again only in the status, which is tried every minute where it fails
            self._say(f"videos: loading the encoder {self._order.encoder}")
        self._state.update(phase=phase, message="")

    def _on_plan(self, clips: int, done: int, features: str) -> None:
        self._planned = self._refreshed = time.monotonic()
        self._features = features
        self._state.update(clips=clips, done=done)
        if clips > done and self._planned - self._told >= TELL_SECONDS:
            self._told = self._planned
            self._say(f"videos: {clips - done:,} of {clips:,} clips to extract")

    def _on_start(self, file: str) -> None:
        self._begun[file] = None
        self._state.update(current=file)

    def _on_clip(self, clip_id: str, status: str, message: str, file: str | None) -> None:
        self._begun.pop(file or "", None)
        self._state.count_done()
        if time.monotonic() - self._refreshed >= SHARD_SECONDS:
            self._refreshed = time.monotonic()
            self._refreshing.ask(self._features)

    def _on_note(self, text: str) -> None:
        self._state.log(text)

    def _on_log(self, text: str) -> None:
        self._state.log(text)

    def _on_round(self, **facts: Any) -> None:
        assert self._request is not None
        result, now = Result(**facts), time.monotonic()
        only = self._request.only
        self._backlog.finished(self._request, result)
        self._request, self._gone, self._deaths, self._worked = None, "mark", 0, now
        if result.taken and only is None:
            aim = max(ROUND_SECONDS, OVERHEAD * (self._planned - self._sent))
            fitting = int(result.taken * aim / max(now - self._planned, 0.1))
            self._most = max(1, min(fitting, 4 * self._most, MOST_FILES))
        given_up = [{"file": file, "status": "crashed", "message": _GIVEN_UP} for file in self._backlog.given_up]
        self._state.update(
            clips=result.clips, done=result.done, gone=result.gone, counts=result.counts, error=None,
            failures=[*given_up, *result.failures], failed=len(given_up) + result.failed, message=result.message,
        )  # fmt: skip
        if features := result.features or self._state["features"]:
            self._state.update(features=features)
            self._refreshing.ask(features)
        if not result.left and only is None:
            self._told = 0.0
            self._state.update(phase="waiting" if result.message else "idle", current=None)
            if result.message or result.counts or result.gone:
                self._say(f"videos: {result.message or _in_words(result)}")

    def _on_refused(self, message: str, encoder: bool) -> None:
        self._request = None
        if encoder and self._child is not None:  # a library may have kept its failure
            self._child.release()
            self._child = None
        self._wait(message, RETRY_SECONDS)

    def _on_end(self, code: int) -> None:
        request, self._child, self._request = self._request, None, None
        if request is None:
            return
        self._backlog.died(request, self._begun)
        first, longest = BACKOFF_SECONDS
        seconds = min(longest, first * 2**self._deaths)
        self._deaths += 1
        self._state.update(restarts=self._state["restarts"] + 1)
        how = f"was killed by {Signals(-code).name}" if code < 0 else f"ended with {code}"
        self._wait(f"the extracting process {how}; it starts again in {seconds:g} s", seconds)

    def _wait(self, message: str, seconds: float) -> None:
        """Do nothing for some seconds, and say why."""
        if message != self._state["error"]:
            self._say(f"videos: {message}")
            self._error(message)
        self._state.update(phase="waiting", message=message, current=None)
        self._not_before, self._waits = time.monotonic() + seconds, True

    def _error(self, line: str) -> None:
        self._state.update(error=line)
        self._state.log(line)


_GIVEN_UP = "the extracting process died twice with this file alone; it is tried again when it changes"


def _in_words(result: Result) -> str:
    failed = sum(count for status, count in result.counts.items() if status not in WITH_FEATURES)
    counts = {"clips that can be searched": result.done - failed, "failed": failed, "gone": result.gone}
    return ", ".join(f"{what}: {count:,}" for what, count in counts.items() if count or what.startswith("clips"))
