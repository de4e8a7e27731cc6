"""Opens a feature set in a process of its own: ``python -m benchmarks.store.open_once PATH`` says what that cost."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from supportset.store.read.feature_set import FeatureSet

BATCH = 256


def main(path: str) -> None:
    """Print as JSON: ``clips``; ``open_s``; ``first_batch_s``, of random ids; ``peak_mb``, ``held_mb`` over imports."""
    before = _memory()
    started = time.perf_counter()
    features = FeatureSet.open(path)
    clips = len(features)
    opened = time.perf_counter()
    # Ids as a user has them, from elsewhere: made here as the corpus made them.
    ids = [f"video{row:07d}" for row in np.random.default_rng(4).choice(clips, min(BATCH, clips), replace=False)]
    asked = time.perf_counter()
    features.read(ids)
    read = time.perf_counter()
    after = _memory()
    told = {
        "clips": clips,
        "open_s": opened - started,
        "first_batch_s": read - asked,
        "peak_mb": after["VmHWM"] - before["VmRSS"],
        "held_mb": after["RssAnon"] - before["RssAnon"],
    }
    json.dump(told, sys.stdout)


def _memory() -> dict[str, float]:
    """Memory of this process in MB: ``VmRSS`` now, ``VmHWM`` at most so far, ``RssAnon`` without mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
    return {name: int(fields[name][0]) / 1e3 for name in ("VmRSS", "VmHWM", "RssAnon")}


if __name__ == "__main__":
    main(sys.argv[1])
