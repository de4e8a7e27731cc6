"""A run over small films, as the tests of the run make it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from supportset.extract.backbones.base import Backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.options import Execution, Selection
from supportset.extract.progress.summary import Summary
from supportset.extract.run import extract
from supportset.store.format.dataset import Dataset
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import MeanColour, dataset_of

Films = dict[str, str | None]


def extract_with(
    dataset: Dataset,
    root: Path | str,
    videos: Path | str,
    backbone: Backbone,
    sampling: Sampling | None = None,
    *,
    progress: bool = True,
    **options: Any,
) -> Summary:
    """Extract with the fields of ``Selection`` and ``Execution`` by name."""
    selection = Selection(**{each.name: options.pop(each.name) for each in fields(Selection) if each.name in options})
    return extract(dataset, root, videos, backbone, sampling, selection, Execution(**options), progress=progress)


def run(tmp_path: Path, films: Films, backbone: Any = None, spans: Any = None, **options: Any) -> Summary:
    dataset = dataset_of(tmp_path / "features", films, **(spans or {}))
    options = {"workers": 1, "batch_size": 4, "device": "cpu", "progress": False, "dtype": "float32"} | options
    return extract_with(dataset, tmp_path / "features", tmp_path / "videos", backbone or MeanColour(), **options)


def statuses(summary: Summary) -> dict[str, str]:
    rows = FeatureSet.open(summary.path).rows()
    return dict(zip(rows["clip_id"].to_pylist(), rows["status"].to_pylist(), strict=True))


def row(summary: Summary, clip_id: str) -> dict[str, Any]:
    return next(row for row in FeatureSet.open(summary.path).rows().to_pylist() if row["clip_id"] == clip_id)
