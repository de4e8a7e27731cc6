"""What each row of an array is: ids from a file, one line a row."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from supportset.store.errors import UsageError

CAPTION, CLIP = ("caption_id", "query_id", "sentence_id", "id", "key"), ("clip_id", "video_id", "clip", "video")


@dataclass(frozen=True)
class RowIds:
    """Ids of the rows of an array.

    Attributes
    ----------
    source : str
        Where they are from, for messages.
    names : tuple of str
        One a row.
    clips : tuple of str, optional
        Of texts: the clip of each row; None: ``names`` are ids of captions or of clips.
    """

    source: str
    names: tuple[str, ...]
    clips: tuple[str, ...] | None = None


def read_row_ids(path: str | Path) -> RowIds:
    """Read ids: one a line, or a table with columns.

    Of texts a table has a column ``caption_id`` and a column ``clip_id`` (or ``video_id``), with a header, separated by
    commas or tabs.

    Raises
    ------
    UsageError
        The file cannot be read, has an empty line, or a row of another number of columns.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror or error}): give a file with one id a line"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no UTF-8 text: give a file with one id a line") from None
    lines = text.splitlines()
    if not lines:
        raise UsageError(f"{path}: is empty: one id a line is needed")
    separator = "\t" if "\t" in lines[0] else "," if "," in lines[0] else None
    if separator is None:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                raise UsageError(f"{path}: line {number} is empty: one id a line is needed")
        return RowIds(str(path), tuple(line.strip() for line in lines))
    head, *rows = list(csv.reader(lines, delimiter=separator))
    columns = [name.strip().casefold() for name in head]
    clip = next((columns.index(name) for name in CLIP if name in columns), None)
    caption = next((columns.index(name) for name in CAPTION if name in columns), None)
    if clip is None:
        raise UsageError(f"{path}: has columns {', '.join(head)}; one of {', '.join(CLIP)} is needed in its first line")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head) or not row[clip].strip():
            raise UsageError(
                f"{path}: line {number} has {len(row)} columns, or no clip; the first line has {len(head)}"
            )
    clips = tuple(row[clip].strip() for row in rows)
    return RowIds(str(path), tuple(row[caption].strip() for row in rows) if caption is not None else clips, clips)


def check_rows(ids: RowIds, rows: int, of: object) -> None:
    """Raise UsageError if there are more or fewer ids than rows."""
    if len(ids.names) != rows:
        raise UsageError(f"{ids.source}: has {len(ids.names):,} ids, but {of} {rows:,} rows: one id a row is needed")


def check_unique(ids: RowIds) -> None:
    """Raise UsageError if an id is there twice."""
    name, count = Counter(ids.names).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{ids.source}: names {name!r} {count} times: each clip once")
