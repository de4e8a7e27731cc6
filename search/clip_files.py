"""Which clips a library has: those of a split, their files, and where each begins in its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from supportset.store.errors import UsageError

if TYPE_CHECKING:
    from supportset.search.retriever import Clips
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


def clips_of_split(clips: Clips, clip_ids: Sequence[str], protocol: str | None, split: str | None) -> list[str]:
    """Those of ``clip_ids`` that are in a split; all, where none is named.

    Raises
    ------
    UsageError
        A protocol without a split, or a split without a protocol where there are several; an unknown name.
    """
    if protocol is None and split is None:
        return list(clip_ids)
    if split is None:
        raise UsageError(f"--protocol {protocol} needs a --split to search in")
    tables, protocol = clips.dataset, protocol or clips.protocol
    if protocol is None:
        known = ", ".join(tables.protocols()) or "none"
        raise UsageError(f"--split {split} needs a --protocol: dataset {tables.name!r} has {known}")
    among = set(clip_ids)
    return [clip_id for clip_id in tables.split_clips(protocol, split) if clip_id in among]
