"""The names of what can happen to a clip, or a caption, as they stand in the index of a feature set."""

from __future__ import annotations

OK = "ok"
MISSING = "missing"  # no file at the clip's path; looked for again by every run
UNREADABLE = "unreadable"  # not a video or an image, or nothing of it can be decoded
NO_VIDEO = "no_video"  # a media file without a picture stream (audio, subtitles)
TOO_SHORT = "too_short"  # no frame within the clip's start and end
DAMAGED = "damaged"  # frames are lost: a cut or corrupt file
OVERFLOW = "overflow"  # a feature value does not fit the stored dtype
TIMEOUT = "timeout"  # decoding made no progress for too long
CRASHED = "crashed"  # the decoder took its process down
OUT_OF_MEMORY = "out_of_memory"
EMPTY = "empty"  # a caption without a word, so without a token
ERROR = "error"  # anything else, with the exception's text


class DecodeError(Exception):
    """A clip that gives no frames, or not all of them.

    Attributes
    ----------
    status : str
        One of the names of this module.
    message : str
        What is wrong, in one line, for the index and the user.
    """

    def __init__(self, status: str, message: str) -> None:
        self.status = status
        self.message = " ".join(message.split())
        super().__init__(status, self.message)

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"
