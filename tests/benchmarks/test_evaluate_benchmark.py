"""The benchmark of scoring on tiny sizes: every way finds the same; how fast anything is, is not looked at."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.evaluate.__main__ import main
from benchmarks.evaluate.figures import MODULES, QUICK, write
from benchmarks.evaluate.ways import WAYS

pytestmark = pytest.mark.slow

INSTALLED = [way for way in WAYS if find_spec(MODULES.get(way, "numpy")) is not None]


@pytest.mark.parametrize("letter", sorted(QUICK))
def test_every_way_finds_the_same(letter: str, tmp_path: Path) -> None:
    write(tmp_path, QUICK[letter])
    found = {way: WAYS[way](tmp_path / "texts.npy", tmp_path / "clips.npy") for way in INSTALLED}
    assert 0 < found["ours"]["R@1"] < 100
    for way, recalls in found.items():
        assert recalls == pytest.approx(found["ours"], abs=1e-3), way


def test_figures_of_a_quick_run(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--quick", "--folder", str(tmp_path / "work"), "--out", str(out)]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text(encoding="utf-8"))["figures"]
    assert [figure["figure"] for figure in figures] == ["square", "wide"]
    names = {row["name"] for row in figures[0]["rows"]}
    assert {"square.ours/seconds", "square.matrix/time", "square.matrix/memory"} <= names
    assert not list((tmp_path / "work").iterdir())
