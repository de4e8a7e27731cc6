"""How one clip ended: the one type that passes from the decoder to the writer's row."""

from __future__ import annotations

from dataclasses import dataclass

from supportset.store.format.status import OK


@dataclass(frozen=True)
class Outcome:
    """How a clip, or a caption, ended.

    Attributes
    ----------
    status : str
        A value of :mod:`supportset.store.format.status`.
    message : str
        What is wrong, in one line; with ``ok`` a note, mostly empty.
    """

    status: str = OK
    message: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", " ".join(self.message.split()))

    def __str__(self) -> str:
        return f"{self.status}: {self.message}" if self.message else self.status


class DecodeError(Exception):
    """A clip that gives no frames, or not all of them.

    Attributes
    ----------
    outcome : Outcome
    """

    def __init__(self, status: str, message: str) -> None:
        self.outcome = Outcome(status, message)
        super().__init__(status, self.outcome.message)

    def __str__(self) -> str:
        return str(self.outcome)
