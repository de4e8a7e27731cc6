"""Records of a run that carry a hash of themselves: damage to them is found when they are read.

A JSON object has it under ``hash``, a TOML file in a comment in its first line. Files of earlier versions have none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supportset.store.errors import SupportsetError
from supportset.store.files import hash_parts

_HASH = "hash"
_FIRST_LINE = re.compile(r"# (xxh3-128:[0-9a-f]{32})\n")


def sealed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object with its hash, as it reads back from JSON."""
    content = json.loads(json.dumps(tree))
    return {**content, _HASH: _hash_of(content)}


def unsealed(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the object without its hash.

    Raises
    ------
    SupportsetError
        It is not the object that was written.
    """
    content = {key: value for key, value in tree.items() if key != _HASH}
    if _HASH in tree and tree[_HASH] != _hash_of(content):
        raise _changed(path, f"key {_HASH!r}")
    return content


def sealed_text(text: str) -> str:
    """Return a TOML file with its hash in the first line."""
    return f"# {hash_parts([text.encode('utf-8')])}\n{text}"


def check_text(path: Path) -> None:
    """Compare a TOML file with the hash in its first line, if it has one.

    Raises
    ------
    SupportsetError
        It is not the file that was written.
    """
    content = path.read_bytes().replace(b"\r\n", b"\n")
    first = _FIRST_LINE.match(content[:99].decode("utf-8", "replace"))
    if first and hash_parts([content[first.end() :]]) != first[1]:
        raise _changed(path, "first line")


def _hash_of(tree: Mapping[str, Any]) -> str:
    return hash_parts([json.dumps(tree, sort_keys=True, ensure_ascii=True).encode("ascii")])


def _changed(path: Path, seal: str) -> SupportsetError:
    return SupportsetError(
        f"{path}: its content is not what was written: restore the file; if the change is meant, remove its {seal}"
    )
