"""What the status page shows of a folder that is kept in the store."""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import datetime
from typing import Any

RATE_SECONDS = 60.0  # seconds that the rate and the time left refer to
LOG_LINES = 100
NAMED = 20  # files that are still written, by name


class Status:
    """State of the ingest, safe to read and change from any thread.

    Parameters
    ----------
    facts : dict
        What does not change: folder, dataset, encoder.
    """

    def __init__(self, **facts: Any) -> None:
        self._lock = threading.Lock()
        self._facts: dict[str, Any] = {
            **facts,
            "features": None,
            "phase": "scanning",
            "message": "",
            "files": 0,
            "settling": [],
            "incomplete": [],
            "clips": 0,
            "done": 0,
            "gone": 0,
            "current": None,
            "failures": [],
            "failed": 0,
            "counts": {},
            "error": None,
            "restarts": 0,
            "watching": "",
        }
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._counted = 0
        self._past: deque[tuple[float, int]] = deque()

    def update(self, **facts: Any) -> None:
        """Change some facts."""
        with self._lock:
            self._facts.update(facts)

    def __getitem__(self, name: str) -> Any:
        with self._lock:
            return self._facts[name]

    def count_done(self) -> None:
        """Count a clip that is done."""
        with self._lock:
            self._facts["done"] += 1
            self._counted += 1
            now = time.monotonic()
            self._past.append((now, self._counted))
            while now - self._past[0][0] > RATE_SECONDS:
                self._past.popleft()

    def log(self, text: str) -> None:
        """Keep a line for the end of the log."""
        with self._lock:
            self._log.append(f"{datetime.now():%H:%M:%S} {text}")

    def to_json(self) -> dict[str, Any]:
        """All facts, as JSON.

        Returns
        -------
        dict
            ``folder``, ``dataset``, ``encoder``, ``features`` (name of the feature set, or None);
            ``phase``: starting, scanning, loading the encoder, extracting, merging shards, idle or waiting;
            ``message``, one line that says why it waits, or empty; ``files`` that were seen, how many are ``settling``
            (still written), some by name in ``settling_files``, and those of them that ended early when they were
            looked at, ``incomplete``; ``clips``, of these ``done``, and ``gone``; ``rate`` in clips/s and ``left_s``,
            the seconds left, both None where nothing runs; ``current``, the file that was begun last; ``failures``, a
            list of ``file``, ``status``, ``message``, of ``failed`` clips in all, and ``counts`` of clips by status;
            ``error``, the last one;
            ``restarts`` of the extracting process; ``watching``, how changes are seen; ``log``, its end.
        """
        with self._lock:
            facts, past = dict(self._facts), list(self._past)
            log = list(self._log)
        settling = facts["settling"]
        rate = None
        if facts["phase"] == "extracting" and len(past) > 1 and past[-1][0] > past[0][0]:
            rate = (past[-1][1] - past[0][1]) / (time.monotonic() - past[0][0])
        left = max(0, facts["clips"] - facts["done"])
        return facts | {
            "settling": len(settling),
            "settling_files": sorted(settling)[:NAMED],
            "rate": rate,
            "left_s": left / rate if rate else None,
            "error": None if facts["error"] == facts["message"] else facts["error"],  # told once
            "log": log,
        }
