"""Figures as JSON and in the document: a target that is missed is said to be missed."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.document import DOCUMENT, fill
from benchmarks.report import THE_TIME, Figure, Row, write_json

FIGURE = Figure(
    "warm",
    "Warm batches",
    [
        Row("warm.zarr/ram", "zarr", "RAM", 0.8996, at_least=0.9),
        Row("epoch.zarr/memcpy", "an epoch", "memcpy", 1.5, THE_TIME, at_most=2.0),
        Row("open", "opening", "", 0.25, "s", at_most=1.0),
        Row("held", "memory", "", 1234.5, "MB"),
    ],
    sizes={"clips": 1000},
    notes=["a note"],
)
MACHINE = {
    **{"cpu": "a processor", "cores": 2, "ram_gb": 24, "kernel": "Linux 6", "libc": "glibc 2", "file_system": "ext4"},
    **{"python": "3.11", "libraries": {"numpy": "2"}, "load": 0.1},
}
OPTIONS = {"quick": False, "only": None, "rounds": 15}


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "results" / "store.json", "store", [FIGURE], MACHINE, OPTIONS)
    content = json.loads((tmp_path / "results" / "store.json").read_text())
    assert content["ratios"] == {"warm.zarr/ram": 0.8996, "epoch.zarr/memcpy": 1.5}
    assert content["missed"] == ["warm.zarr/ram"]
    assert [row["met"] for row in content["figures"][0]["rows"]] == [False, True, True, None]
    assert content["machine"] == MACHINE


def test_the_document_is_filled_between_the_marks(tmp_path: Path) -> None:
    write_json(tmp_path / "store.json", "store", [FIGURE], MACHINE, OPTIONS)
    unknown = "<!-- other: begin -->\nx\n<!-- other: end -->\n"
    before = f"# Title\n<!-- store: begin -->\nold\n<!-- store: end -->\nkept\n{unknown}"
    after = fill(before, tmp_path)
    assert after.startswith("# Title\n<!-- store: begin -->\nMeasured ")
    assert after.endswith(f"<!-- store: end -->\nkept\n{unknown}")
    assert "old" not in after
    assert "| zarr | RAM | 0.900 x as fast | at least 0.9 | missed |" in after
    assert "| an epoch | memcpy | 1.50 x the time | at most 2 | met |" in after
    assert "| memory |  | 1,234 MB |  |  |" in after
    assert fill(after, tmp_path) == after


def test_our_document_has_a_place_for_the_store() -> None:
    assert "<!-- store: begin -->\n" in DOCUMENT.read_text(encoding="utf-8")


def test_a_figure_that_was_left_out_is_told_without_an_empty_table(tmp_path: Path) -> None:
    left_out = Figure("full", "Full size", [], notes=["left out: no GPU"])
    write_json(tmp_path / "store.json", "store", [left_out], MACHINE, OPTIONS)
    after = fill("<!-- store: begin -->\n<!-- store: end -->\n", tmp_path)
    assert "**Full size**\n\n- left out: no GPU\n" in after
    assert "|" not in after
