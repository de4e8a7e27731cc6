"""How a browser shows the file of a clip."""

from __future__ import annotations

from mimetypes import guess_type
from pathlib import Path

from supportset.search.server.answers import Playback
from supportset.search.server.limits import Limits


class Media:
    """The files of clips as a browser plays them.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def playback(self, url: str, file: Path, at_s: float) -> Playback:
        """How the file at ``url`` is played at a second of it."""
        media_type = guess_type(file.name)[0] or "video/mp4"
        return Playback(url=url, media_type=media_type, kind="image" if media_type.startswith("image/") else "video")
