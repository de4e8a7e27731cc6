"""The store's benchmark runs from end to end on tiny sizes; how fast anything is, is not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.store.__main__ import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("letter", "expected"),
    [
        ("a", {f"warm.{name}.{way}/ram" for name in ("zarr", "hdf5") for way in ("read_rows", "read_ids", "resident")}),
        ("b", {"epoch.zarr.padded_features/memcpy", "epoch.hdf5.whole_batches/memcpy"}),
        ("c", set()),  # a temporary folder may be one in memory, which cannot be cold
        ("d", {"verify.zarr.warm/sequential_read", "verify.hdf5.warm/sequential_read"}),
        ("e", {"write.zarr/npy", "write.hdf5/npy"}),
        ("f", {"many.zarr.read_rows/ram", "many.hdf5.read_rows/ram"}),
    ],
)
def test_figure(letter: str, expected: set[str], tmp_path: Path) -> None:
    out, work = tmp_path / "out.json", tmp_path / "work"
    options = ["--quick", "--rounds", "1", "--only", letter, "--folder", str(work), "--out", str(out)]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text(encoding="utf-8"))
    assert expected <= content["ratios"].keys()
    assert content["figures"][0]["rows"] or content["figures"][0]["notes"]
    assert not list(work.iterdir())  # nothing is left behind


def test_unknown_figure() -> None:
    result = CliRunner().invoke(main, ["--only", "a,z"])
    assert result.exit_code == 2
    assert "there is no figure 'z'; there are a, b, c, d, e, f" in result.output
