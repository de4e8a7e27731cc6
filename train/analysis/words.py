"""Words of captions that say something of what is seen."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W\d_]+")

# Words that say nothing of what is seen: any two English captions have some of them in common.
_EMPTY = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "been", "being", "but", "by", "did", "do", "does", "down", "for", "from",
    "had", "has", "have", "he", "her", "him", "his", "in", "into", "is", "it", "its", "of", "off", "on", "one", "onto",
    "or", "out", "over", "she", "some", "that", "the", "their", "them", "there", "these", "they", "this", "those", "to",
    "two", "under", "up", "was", "were", "which", "while", "who", "with",
})  # fmt: skip


def content_words(text: str) -> frozenset[str]:
    """Words of a caption that say something, in lower case."""
    return frozenset(WORD.findall(text.lower())) - _EMPTY
