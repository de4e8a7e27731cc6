"""The name of the program, for messages that tell the user what to type."""

from __future__ import annotations

import sys
from pathlib import Path


def program() -> str:
    """Return how this process was started: ``supportset``, ``python -m supportset`` or ``python cli.py``."""
    started = Path(sys.argv[0])
    if started.name == "cli.py":
        return "python cli.py"
    module = started.name == "__main__.py" and started.parent.name == "supportset"
    return "python -m supportset" if module else "supportset"
