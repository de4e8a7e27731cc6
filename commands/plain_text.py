"""Print text from files, tables and models as text: it can neither control a terminal nor start a line."""

from __future__ import annotations

_JOINERS = "\u00a0\u200c\u200d"  # needed by scripts and emoji, and harmless


def one_line(text: str) -> str:
    """Escape control characters, line breaks, direction marks and undecodable bytes."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in _JOINERS else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def lines(text: str) -> str:
    """The same for text of several lines, which stay lines."""
    return "\n".join(one_line(line) for line in text.split("\n"))
