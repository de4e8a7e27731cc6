"""Errors that the command line prints as one line, without a traceback. All packages raise them."""

from __future__ import annotations

import unicodedata

_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (such as right-to-left marks), surrogates, line separators

_JOINERS = "\u200c\u200d"  # scripts and emoji need them


def printable(text: object) -> str:
    """Return a text for a terminal: control characters, line breaks and direction marks become escapes.

    Names, ids and messages may come from files of other people.
    """
    said = str(text)
    if said.isascii() and said.isprintable():
        return said
    return "".join(
        char.encode("unicode_escape", "backslashreplace").decode()
        if unicodedata.category(char) in _CONTROL and char not in _JOINERS
        else char
        for char in said
    )


def printable_lines(text: str) -> str:
    """Return a text of several lines for a terminal: `printable`, line by line."""
    return "\n".join(map(printable, text.split("\n")))


class SupportsetError(Exception):
    """Work failed: the message names the file, the value and the fix.

    Attributes
    ----------
    exit_code : int
        Exit code of the command line: 1 for failed work.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))


class InvalidFeatures(SupportsetError):  # noqa: N818 - not an error by itself
    """Features that a feature set cannot hold: wrong shape, no steps, impossible timestamps."""


class ValueOverflow(InvalidFeatures):
    """Features of a clip are not finite, or not in the stored dtype: record it as the clip's failure."""


class UsageError(SupportsetError):
    """Wrong use: an unknown name, an impossible value, a missing input."""

    exit_code = 2
