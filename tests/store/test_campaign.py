"""A sample of the corruption campaign, in a process of its own: it forks, and wants no threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_damage_is_told_or_changes_no_answer() -> None:
    words = [sys.executable, "-m", "tests.store.campaign", "--trials", "24", "--seed", "7"]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "24 trials, 0 faults" in done.stdout
