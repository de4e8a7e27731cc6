"""Metadata of objects; each driver of fsspec has other keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created", "timeCreated")
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5", *_TIMES)


def is_file(info: Mapping[str, Any]) -> bool:
    """Tell whether this is an object, not an implied folder."""
    return bool(info["type"] == "file")


def version(info: Mapping[str, Any]) -> str:
    """Return the version of an object: its ETag or similar, else its time."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")


def written_at(info: Mapping[str, Any]) -> float:
    """Return the time of writing, in seconds since 1970; NaN if unknown."""
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, str):
            with suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return math.nan
