"""Writers of tiny invented annotations in the official forms, and a reader's result as plain values."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from supportset.extract.readers import Annotations
from supportset.store.format.dataset import Dataset, write_dataset


def write(path: Path, content: str | bytes | list[Any] | dict[str, Any]) -> Path:
    """Write text, bytes, or anything else as JSON; makes the folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8", newline="")
    return path


def touch(folder: Path, *names: str) -> None:
    """Files with a byte in them: readers look at names, not into videos."""
    for name in names:
        write(folder / name, b"\0")


def sizes(annotations: Annotations) -> dict[tuple[str, str], int]:
    """(protocol, split) -> number of rows."""
    return dict(Counter((row.protocol, row.split) for row in annotations.splits))


def members(annotations: Annotations, protocol: str, split: str) -> list[tuple[str, str | None]]:
    """(clip, caption) of one split, in order."""
    return [
        (row.clip_id, row.caption_id) for row in annotations.splits if (row.protocol, row.split) == (protocol, split)
    ]


def texts(annotations: Annotations, clip: str) -> list[str]:
    """Captions of one clip, whatever their protocol, in order."""
    return [row.text for row in annotations.captions if row.clip_id == clip]


def paths(annotations: Annotations) -> dict[str, str | None]:
    """Clip -> path."""
    return {row.clip_id: row.path for row in annotations.clips}


def assert_consistent(annotations: Annotations) -> None:
    """What must hold of every dataset: unique ids, no row that points nowhere, notes of one line."""
    clips = [row.clip_id for row in annotations.clips]
    assert len(clips) == len(set(clips))
    captions = {row.caption_id: row for row in annotations.captions}
    assert len(captions) == len(annotations.captions)
    assert {row.clip_id for row in annotations.captions} <= set(clips)
    assert {row.clip_id for row in annotations.splits} <= set(clips)
    for row in annotations.splits:
        assert row.split in annotations.protocols[row.protocol]
        if row.caption_id is not None:
            caption = captions[row.caption_id]
            assert caption.clip_id == row.clip_id
            assert caption.protocol is None or row.protocol.startswith(caption.protocol)
    assert len(set(annotations.splits)) == len(annotations.splits)
    assert all(row.text.strip() for row in annotations.captions)
    assert all("\n" not in note for note in annotations.notes)
    assert all(path.is_file() for path in annotations.sources)


def stored(annotations: Annotations, root: Path) -> Dataset:
    """The annotations as a dataset of a store."""
    return write_dataset(
        root,
        "invented",
        clips=annotations.clips,
        captions=annotations.captions,
        splits=annotations.splits,
        attributes=annotations.attributes,
        protocols=annotations.protocols,
        sources=annotations.sources,
    )
