"""The captions that a run selects, and those that are still to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption, Dataset
from supportset.store.format.status import EMPTY, OK


@dataclass(frozen=True)
class TextWork:
    """Captions that are still to do.

    Attributes
    ----------
    captions : list[Caption]
        Without features, or with those of another text.
    blank : list[Caption]
        Captions without a word that are not recorded yet.
    done : int
        How many have a result: features of their text, or the reason for none.
    """

    captions: list[Caption]
    blank: list[Caption]
    done: int


def select_captions(
    dataset: Dataset, protocol: str | None = None, split: str | None = None, limit: int | None = None
) -> list[Caption]:
    """Choose captions of a dataset: all of its table in their order, or those of splits.

    Parameters
    ----------
    dataset : Dataset
    protocol, split : str, optional
        Only captions of this protocol, of this split (of any protocol that has it)
    limit : int, optional
        Only the first captions of these.

    Raises
    ------
    UsageError
        An unknown protocol or split, or no caption at all.
    """
    if protocol is None and split is None:
        columns = (dataset.captions[name].to_pylist() for name in ("caption_id", "clip_id", "text"))
        captions = [Caption(*row) for row in zip(*columns, strict=True)]
    else:
        captions = _of_splits(dataset, protocol, split)
    if limit is not None:
        if limit < 1:
            raise UsageError(f"a limit of {limit} captions leaves nothing to do: give at least 1")
        captions = captions[:limit]
    if not captions:
        where = "/".join(name for name in (protocol, split) if name)
        raise UsageError(f"dataset {dataset.name!r} has no caption" + (f" in {where}" if where else "") + " to read")
    return captions


def plan_text(captions: Sequence[Caption], rows: pa.Table) -> TextWork:
    """Compare the selected captions with the index: a caption is extracted again if its text has changed.

    Parameters
    ----------
    captions : Sequence[Caption]
        The selected captions.
    rows : pa.Table
        Of the index, see :meth:`supportset.store.read.feature_set.FeatureSet.rows`.
    """
    known = _known(rows)
    todo: list[Caption] = []
    blank: list[Caption] = []
    for caption in captions:
        status, of = known.get(caption.caption_id, (None, None))
        if not caption.text.strip():
            # Features of an earlier text stay in the store; readers compare the text's hash.
            if status is None:
                blank.append(caption)
        elif status is None or of != caption.hash:
            todo.append(caption)
    return TextWork(todo, blank, len(captions) - len(todo) - len(blank))


def count_captions(captions: Sequence[Caption], rows: pa.Table) -> dict[str, int]:
    """Count the captions by status, ``ok`` first, without those that the index does not have."""
    known = _known(rows)
    counts = Counter(
        known[caption.caption_id][0] if caption.text.strip() else EMPTY
        for caption in captions
        if caption.caption_id in known
    )
    return dict(sorted(counts.items(), key=lambda item: (item[0] != OK, item[0])))


def _of_splits(dataset: Dataset, protocol: str | None, split: str | None) -> list[Caption]:
    names = [protocol] if protocol is not None else dataset.protocols()
    parts = [(name, part) for name in names for part in dataset.split_names(name) if split in (None, part)]
    if not parts:
        known = sorted({part for name in names for part in dataset.split_names(name)})
        where = f"protocol {protocol!r} of dataset" if protocol is not None else "dataset"
        raise UsageError(f"{where} {dataset.name!r} has no split {split!r}; it has {', '.join(known) or 'none'}")
    return list(dict.fromkeys(caption for part in parts for caption in dataset.split_captions(*part)))


def _known(rows: pa.Table) -> dict[str, tuple[str, str | None]]:
    """Return the status and the text's hash, by caption."""
    columns = [rows[name].to_pylist() for name in ("clip_id", "status", "source_hash")]
    return {caption_id: (status, of) for caption_id, status, of in zip(*columns, strict=True)}
