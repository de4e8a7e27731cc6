"""A run over small films, as the tests of the run make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supportset.extract.progress.summary import Summary
from supportset.extract.run import extract
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import MeanColour, dataset_of

Films = dict[str, str | None]


def run(tmp_path: Path, films: Films, backbone: Any = None, spans: Any = None, **options: Any) -> Summary:
    dataset = dataset_of(tmp_path / "features", films, **(spans or {}))
    options = {"workers": 1, "batch_size": 4, "device": "cpu", "progress": False, "dtype": "float32"} | options
    return extract(dataset, tmp_path / "features", tmp_path / "videos", backbone or MeanColour(), **options)


def statuses(summary: Summary) -> dict[str, str]:
    rows = FeatureSet.open(summary.path).rows()
    return dict(zip(rows["clip_id"].to_pylist(), rows["status"].to_pylist(), strict=True))


def row(summary: Summary, clip_id: str) -> dict[str, Any]:
    return next(row for row in FeatureSet.open(summary.path).rows().to_pylist() if row["clip_id"] == clip_id)
