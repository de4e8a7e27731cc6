"""Notices changes below a folder as they happen, where the system reports them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from watchfiles import Change, watch

from supportset.search.ingest.watched import WatchedFolder

_GROUP_MS, _PAUSE_MS = 1000, 100  # changes are told together: at most so late, and after a pause of so long
_RETRY_SECONDS = 5.0


class Watching:
    """A thread that waits for changes.

    Parameters
    ----------
    folder : WatchedFolder
    changed : callable
        Called from the thread after changes.

    Attributes
    ----------
    live : bool
        Whether the system reports changes: not where it has no watches left, or there is no folder.
    """

    def __init__(self, folder: WatchedFolder, changed: Callable[[], None]) -> None:
        self._folder, self._changed = folder, changed
        self.live = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def stop(self) -> None:
        """Stop waiting."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with suppress(Exception):  # whatever the library raises: the folder is looked at now and then anyway
                self._wait()
            self.live = False
            self._stopped.wait(_RETRY_SECONDS)

    def _wait(self) -> None:
        identity = self._identity()
        for changes in watch(
            self._folder.root,
            watch_filter=self._matters,
            debounce=_GROUP_MS,
            step=_PAUSE_MS,
            stop_event=self._stopped,
            rust_timeout=1000,
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            self.live = True
            if changes:
                self._changed()
            elif self._identity() != identity:  # another folder is there now, mounted for instance
                self._changed()
                return

    def _matters(self, change: Change, path: str) -> bool:
        return self._folder.covers(path)

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._folder.root.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
