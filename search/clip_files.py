"""Where the clips of a library are: their files, and where each begins in its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supportset.store.format.dataset import Dataset
    from supportset.store.read.aligned import AlignedFeatures


def clip_files(dataset: Dataset, features: AlignedFeatures) -> dict[str, tuple[str | None, float]]:
    """File of each clip, where the last run found it or as it was extracted, and the clip's start in it in seconds.

    The file is relative to the folder of videos; None where it is not known.
    """
    rows = features.sets[0].rows().select(["clip_id", "source_path"]).to_pydict()
    where: dict[str, tuple[str | None, float]]
    where = {clip: (path, 0.0) for clip, path in zip(rows["clip_id"], rows["source_path"], strict=True)}
    for row in dataset.clips.select(["clip_id", "path", "start_s"]).to_pylist():
        extracted, _ = where.get(row["clip_id"], (None, 0.0))
        where[row["clip_id"]] = row["path"] or extracted, row["start_s"] or 0.0
    return where
