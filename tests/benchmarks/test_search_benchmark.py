"""The benchmark of search runs from end to end on tiny sizes; how fast anything is, is not looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.search.__main__ import main
from benchmarks.search.library import STEPS, MadeUp, write_library
from benchmarks.search.ways import WAYS, ask, build, write_truth

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", WAYS)
def test_every_way_finds_the_right_clips(way: str, tmp_path: Path) -> None:
    for module in WAYS[way].modules:
        pytest.importorskip(module)
    write_library(tmp_path, 3_000, 20, 32)
    write_truth(tmp_path)
    assert build(way, tmp_path)["seconds"] > 0
    told = ask(way, tmp_path)
    assert told["recall"] == 1.0 if way in ("exact", "lancedb", "faiss-flat") else told["recall"] > 0.7
    assert 0 < told["p50_ms"] <= told["p95_ms"]


def test_the_library_is_clustered_and_its_answers_are_right(tmp_path: Path) -> None:
    """Steps of a clip are near each other, and a query finds the clip that it points to among the first."""
    write_library(tmp_path, 4_000, 30, 64)
    features = MadeUp(tmp_path).open_clips().features
    values, _ = features.read(features.clip_ids)
    steps = values.astype(np.float32).reshape(-1, STEPS, 64)
    within = np.einsum("csd,ctd->cst", steps, steps).mean()
    between = (steps[:, 0] @ steps[:, 0].T).mean()
    assert within > 0.85
    assert 0.4 < between < within - 0.1
    write_truth(tmp_path)
    truth = np.load(tmp_path / "truth.npy")
    assert len(np.unique(truth[:, 0])) > 15  # the first hits are not the same for all queries


def test_all_figures_run(tmp_path: Path) -> None:
    """The page is left out without wrk, and says so."""
    result = CliRunner().invoke(
        main, ["--quick", "--only", "a,e", "--folder", str(tmp_path), "--out", str(tmp_path / "out.json")]
    )
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out.json").read_text())
    sizes, page = told["figures"]
    names = {row["name"] for row in sizes["rows"]}
    assert {"parts-a.exact/p50", "parts-a.exact/recall", "parts-a.exact/mapped"} <= names
    if shutil.which("wrk") is None:
        assert "wrk" in page["notes"][0]
    else:
        assert {row["name"] for row in page["rows"]} >= {"page.moment/1/rate", "page.clip/8/p99"}
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]
