"""Frames of clips as small pictures inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.outcome import DecodeError
from supportset.store.errors import UsageError

_HEIGHT, _WIDTH, _FRAMES, _GAP = 90, 120, 3, 2  # pixels of a frame, frames side by side


class Pictures:
    """Pictures of clips whose files are at hand.

    Parameters
    ----------
    places : mapping
        ``path`` (relative to ``videos``), ``start_s`` and ``end_s`` of each clip.
    videos : Path, optional
        Folder of the videos; None: there are no pictures.

    Attributes
    ----------
    failed : set of str
        Clips whose file is absent or damaged, of those that were asked for.
    """

    def __init__(self, places: Mapping[str, Mapping[str, Any]], videos: Path | None) -> None:
        if videos is not None and not videos.is_dir():
            raise UsageError(f"{videos}: no such folder; --videos names the folder that the videos are in")
        self._places, self._videos = places, videos
        self.failed: set[str] = set()
        self.of = cache(self._of)

    def _of(self, clip_id: str) -> str:
        """A ``data:`` URI of frames of the clip side by side; empty where there is none."""
        if self._videos is None:
            return ""
        place = self._places.get(clip_id, {})
        path = None if not place.get("path") else self._videos / place["path"]
        frames: list[Image.Image] = []
        if path is not None and path.is_file():
            try:
                for step in decode_clip(path, place["start_s"], place["end_s"], Sampling(frames=_FRAMES)):
                    frames.append(Image.fromarray(step.frames[0]))
            except DecodeError:
                pass  # the frames before the damage are shown
        if not frames:
            self.failed.add(clip_id)
            return ""
        strip = Image.new("RGB", (len(frames) * (_WIDTH + _GAP) - _GAP, _HEIGHT), "white")
        for place_of, frame in enumerate(frames):
            strip.paste(
                ImageOps.fit(frame, (_WIDTH, _HEIGHT), Image.Resampling.LANCZOS), (place_of * (_WIDTH + _GAP), 0)
            )
        buffer = io.BytesIO()
        strip.save(buffer, "WEBP", quality=72, method=4)
        return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
