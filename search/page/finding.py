"""What the page asks of the server's service: searches, and what the form offers."""

from __future__ import annotations

from collections.abc import Sequence
from mimetypes import guess_type
from typing import Any
from urllib.parse import quote

from supportset.search.library import Library
from supportset.search.page import view
from supportset.search.page.asked import Asked
from supportset.search.page.times import span
from supportset.search.searcher import Searcher
from supportset.search.server.answers import ColumnAnswer
from supportset.search.server.service import Service

_HIDDEN = {"clip_id", "caption_id", "path", "source", "start_s", "end_s"}
_TYPED = {"name", "text"}  # looked for by a part of them, however few there are
_LABELS = {"text": "Caption", "duration": "Duration in seconds", "name": "File name"}
_WORDS = ("people outdoors", "a close-up of a face", "a street at night", "water", "text on a screen")
SUGGESTED, SHORT = 5, 60  # queries of the first page, and the characters of one
SAMPLES = 12


def columns(known: Sequence[ColumnAnswer], asked: Asked) -> list[dict[str, Any]]:
    """Fields of the filters, with what they hold now: columns that distinguish clips."""
    fields = []
    for column in known:
        if column.name in _HIDDEN or (column.values is not None and len(column.values) < 2):
            continue
        values, filters = column.values or (), asked.filters
        offered = column.type == "text" and column.name not in _TYPED and values and _short(values)
        kind: str = "choice" if offered else column.type
        field = {
            "name": column.name,
            "label": _LABELS.get(column.name, column.name.replace("_", " ").capitalize()),
            "kind": kind,
            "options": values,
            "value": filters.get(column.name, ""),
            "least": filters.get(f"{column.name}:min", ""),
            "most": filters.get(f"{column.name}:max", ""),
            "from": "least",
            "to": "most",
        }
        if kind == "number" and values:
            field |= {"from": values[0], "to": values[-1]}
        fields.append(field)
    return fields


def _choices(fields: Sequence[dict[str, Any]]) -> set[str]:
    return {field["name"] for field in fields if field["kind"] == "choice"}


def _short(values: Sequence[str]) -> bool:
    return max(map(len, values)) <= 40


def conditions(asked: Asked, fields: Sequence[dict[str, Any]]) -> list[str]:
    """The filters as search takes them."""
    choices = _choices(fields)
    found = []
    for name, value in asked.filters.items():
        column, _, end = name.rpartition(":")
        if column and end in ("min", "max"):
            found.append(f'{column} {">=" if end == "min" else "<="} "{value}"')
        else:
            found.append(f'{name} {"=" if name in choices else "~"} "{value}"')
    return found


def active(asked: Asked, fields: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The filters in use, in words."""
    labels = {field["name"]: field["label"] for field in fields}
    choices = _choices(fields)
    found = []
    for name, value in asked.filters.items():
        column, _, end = name.rpartition(":")
        if column and end in ("min", "max"):
            words = f"{labels.get(column, column)} {'at least' if end == 'min' else 'at most'} {value}"
        else:
            words = f"{labels.get(name, name)}{':' if name in choices else ' contains'} {value}"
        found.append({"name": name, "words": words})
    return found


def suggestions(searcher: Searcher) -> list[str]:
    """Queries to begin with: short captions of the dataset, or else plain words."""
    texts = [text for text in searcher.dataset.captions["text"][:5000].to_pylist() if len(text) <= SHORT]
    texts = list(dict.fromkeys(texts))
    shortest = set(sorted(texts, key=len)[: max(SUGGESTED, len(texts) // 3)])
    texts = [text for text in texts if text in shortest]
    return texts[:: max(1, len(texts) // SUGGESTED)][:SUGGESTED] or list(_WORDS)


def samples(library: Library) -> list[str]:
    """Clips to show before anything is searched for."""
    ids = library.searcher.clip_ids
    return ids[:: max(1, len(ids) // SAMPLES)][:SAMPLES]


def chips(service: Service, library: Library, asked: Asked) -> list[dict[str, Any]]:
    """The examples of the query."""
    found = []
    for each in asked.examples:
        thumbnail: str | None = f"/media/uploads/{quote(each.id)}"
        words = "your file"
        if each.kind == "like":
            clip = service.clip(library.name, each.id)
            words, at_s = view.title_of(clip.path, each.id), None
            if each.start_s is not None and each.end_s is not None:
                words, at_s = f"{words} {span(each.start_s, each.end_s)}", (each.start_s + each.end_s) / 2
            thumbnail = view.thumbnail(library.name, clip, at_s and at_s - (clip.start_s or 0.0))
        found.append(
            {"name": each.kind, "value": str(each), "minus": each.weight < 0, "words": words, "thumbnail": thumbnail}
        )
    return found


def things(library: Library, count: int) -> str:
    """What the clips of a library are to those who look for them."""
    if not library.ready:
        return "videos"
    clips = library.searcher.dataset.clips
    path = next((each for each in clips["path"][:100].to_pylist() if each), "")
    if (guess_type(path)[0] or "").startswith("image/"):
        word = "picture"
    else:
        word = "video" if clips["start_s"].null_count == len(clips) else "clip"
    return word if count == 1 else f"{word}s"
