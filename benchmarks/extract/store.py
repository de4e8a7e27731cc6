"""A dataset of films in a store of its own, and a run over it as the command does one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supportset.extract.backbones.base import Backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.options import Execution
from supportset.extract.progress.summary import Summary
from supportset.extract.run import extract
from supportset.store.format.dataset import Dataset, write_dataset


def dataset_of(root: Path, films: Sequence[Path]) -> Dataset:
    """The tables of a dataset whose clips are these films, in an empty store at ``root``."""
    shutil.rmtree(root, ignore_errors=True)
    clips = [{"clip_id": film.stem, "path": film.name, "start_s": None, "end_s": None} for film in films]
    return write_dataset(root, "films", clips=clips, captions=[], splits=[], protocols={}, sources=[])


def run(
    root: Path, dataset: Dataset, films: Sequence[Path], backbone: Backbone, sampling: Sampling, **options: Any
) -> Summary:
    """Extract all of it; anything but success is an error here."""
    summary = extract(dataset, root, films[0].parent, backbone, sampling, None, Execution(**options), progress=False)
    if summary.status != {"ok": len(films)}:
        raise RuntimeError(f"the extraction did not go through: {summary.status}")
    return summary
