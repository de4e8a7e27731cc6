"""What the drivers of object stores tell of an object, each under names of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created", "timeCreated")
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5", *_TIMES)


def is_file(info: Mapping[str, Any]) -> bool:
    """Whether this is an object, not a folder that the names of others imply."""
    return bool(info["type"] == "file")


def version(info: Mapping[str, Any]) -> str:
    """What changes when an object is replaced: its ETag or the like, else its time."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")


def written_at(info: Mapping[str, Any]) -> float:
    """When an object was written, in seconds since 1970; NaN where that is not told."""
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
