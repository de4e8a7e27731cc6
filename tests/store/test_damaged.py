"""Damaged clips that kept their features: a status of the index, also in stores of before 0.2.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supportset.extract.progress.summary import count_statuses, exit_code
from supportset.store.maintain.compact import compact
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.show import feature_set_json
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import card, clip

MESSAGE = "corrupt data: 3 of 9 frames lost (33.3%)"


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in FeatureSet.open(path).rows().to_pylist()}


@pytest.fixture(params=["now", "before 0.2.0"])
def stored(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """One clip that is ok, one damaged with features, one damaged without."""
    old = request.param != "now"
    with FeatureWriter(tmp_path, card()) as writer:
        writer.add("a", *clip(1))
        kept = {"message": f"damaged: {MESSAGE}"} if old else {"message": MESSAGE, "status": "damaged"}
        writer.add("b", *clip(2), **kept)
        writer.fail("c", "damaged", MESSAGE)
    (content,) = (tmp_path / "shards").glob("*.parquet")
    assert (b"damaged: corrupt" in content.read_bytes()) == old
    return tmp_path


def test_damaged_is_a_status(stored: Path) -> None:
    rows = rows_of(stored)
    assert {clip_id: (row["status"], row["length"] > 0) for clip_id, row in rows.items()} == {
        "a": ("ok", True),
        "b": ("damaged", True),
        "c": ("damaged", False),
    }
    assert rows["b"]["message"] == MESSAGE
    features = FeatureSet.open(stored)
    assert sorted(features.clip_ids) == ["a", "b"]
    np.testing.assert_array_equal(features.read(["b"])[0], clip(2)[0])
    assert features.statuses() == {"ok": 1, "damaged": 2} == count_statuses(features.rows())
    assert [row["clip_id"] for row in feature_set_json(features)["remarks"]] == ["b"]
    assert [row["clip_id"] for row in feature_set_json(features)["failures"]] == ["c"]
    assert exit_code(features.rows(), 0.34, False) == 0
    assert exit_code(features.rows(), 0.33, False) == 1
    assert {problem.kind for problem in verify(stored).problems} <= {"folder_name"}


def test_it_outlasts_a_compaction(stored: Path) -> None:
    with FeatureWriter(stored, card()) as writer:
        writer.add("d", *clip(3))
    compact(stored)
    assert rows_of(stored)["b"]["status"] == "damaged"
    assert FeatureSet.open(stored).statuses() == {"ok": 2, "damaged": 2}


def test_a_later_retry_counts(stored: Path) -> None:
    """Features of a later generation count, damaged or not; a failure never does."""
    with FeatureWriter(stored, card()) as writer:
        writer.add("a", *clip(4), status="damaged", message=MESSAGE)
        writer.add("b", *clip(5))
        writer.add("c", *clip(6), status="damaged", message=MESSAGE)
    with FeatureWriter(stored, card()) as writer:
        writer.fail("b", "unreadable", "")
    assert FeatureSet.open(stored).statuses() == {"ok": 1, "damaged": 2}
    np.testing.assert_array_equal(FeatureSet.open(stored).read(["c"])[0], clip(6)[0])


def test_other_statuses_have_no_features(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path, card()) as writer, pytest.raises(ValueError, match="ok or damaged"):
        writer.add("a", *clip(1), status="unreadable")
