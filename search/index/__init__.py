"""Indexes over the parts of all clips of a library. `open_index` opens one by its name.

All answer the same call, ``search(queries, k, allowed)``, with exact scores.
"""

from __future__ import annotations

from supportset.search.index.registry import NAMES, Index, check_index, open_index

__all__ = ["NAMES", "Index", "check_index", "open_index"]
