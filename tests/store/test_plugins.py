"""Plugins of a group: our modules by file name, and the entry points of other packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.store.errors import UsageError
from supportset.store.plugins import load_plugin, plugins, source

GROUP = "supportset.trials"


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules of "ours", and an installed package that registers three names."""
    ours = tmp_path / "trial_ours"
    ours.mkdir()
    for name, text in {"__init__": "", "plain": "load = int", "_private": "", "twice": "load = 1"}.items():
        (ours / f"{name}.py").write_text(text)
    (tmp_path / "trial_theirs.py").write_text("load = str\n")
    (tmp_path / "trial_fails.py").write_text("raise RuntimeError('no\\nlicence')\n")
    info = tmp_path / "trial_theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trial-theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\ntwice = trial_theirs:load\nother = trial_theirs:load\nabsent = trial_nowhere\n"
        "fails = trial_fails\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_ours_come_first_and_keep_their_names() -> None:
    found = plugins(GROUP, "trial_ours", "load")
    assert list(found) == ["plain", "twice", "absent", "fails", "other"]
    assert load_plugin(found["plain"]) is int
    assert load_plugin(found["twice"]) == 1
    assert load_plugin(found["other"]) is str
    assert [source(found[name]) for name in ("plain", "other")] == ["trial_ours.plain", "trial-theirs"]
    assert load_plugin(plugins(GROUP, "trial_ours")["plain"]).__name__ == "trial_ours.plain"
    assert list(plugins(GROUP)) == ["absent", "fails", "other", "twice"]


@pytest.mark.parametrize(("name", "reason"), [("absent", "ModuleNotFoundError"), ("fails", "RuntimeError: no licence")])
def test_a_broken_plugin_is_one_line_that_names_its_package(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"'{name}' .*supportset.trials .*{reason}.*uninstall the package trial-thei"):
        load_plugin(plugins(GROUP)[name])
