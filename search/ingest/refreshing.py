"""Tells a server that the features of a folder changed, no more often than it can follow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_SHARE, _LONGEST = 4, 30.0  # a call that takes a second is followed by four seconds without one; at most so many
_STOP_SECONDS = 5.0


class Refreshing:
    """A thread that calls a function after requests; requests during a call lead to one more.

    Parameters
    ----------
    refresh : callable
        Takes the name of the feature set.
    failed : callable
        Takes one line about an exception of ``refresh``, which is called again at the next request.
    """

    def __init__(self, refresh: Callable[[str], object], failed: Callable[[str], None]) -> None:
        self._refresh, self._failed = refresh, failed
        self._features = ""
        self._asked, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="refreshing", daemon=True)

    def start(self) -> None:
        """Begin to wait for requests."""
        self._thread.start()

    def ask(self, features: str) -> None:
        """Ask for a call."""
        self._features = features
        self._asked.set()

    def stop(self) -> None:
        """End after the call that runs; one that takes long is left behind."""
        self._stopped.set()
        self._asked.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        first = True
        while True:
            self._asked.wait()
            if self._stopped.is_set():
                return
            self._asked.clear()
            began = time.monotonic()
            try:
                self._refresh(self._features)
            except Exception as error:  # a server continues with what it has
                self._failed(f"the search could not be refreshed: {error or type(error).__name__}")
            if not first:  # which loads a model
                self._stopped.wait(min(_SHARE * (time.monotonic() - began), _LONGEST))
            first = False
