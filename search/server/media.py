"""How a browser shows the file of a clip."""

from __future__ import annotations

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from supportset.search.playback.conversions import Bounds, Conversions
from supportset.search.playback.facts import Facts
from supportset.search.playback.process import MediaError, MediaProcess
from supportset.search.server.answers import Playback
from supportset.search.server.limits import Limits
from supportset.store.errors import UsageError
from supportset.store.user_cache import cache_folder

PART_STEP, PART_LENGTH = 10, 20  # seconds: a part begins every so many, and lasts so long
WHOLE_SECONDS = 60.0  # a video that is converted as a whole
_LEAD = 2.0  # seconds that are shown before a moment
_PATIENCE = 5.0  # seconds to look into one file
_FACTS_MEMORY = 2 * 2**30
_REMEMBERED = 20_000  # files
_MOST_COPIED = 2**30  # bytes of a file that is copied as a whole: a larger one is encoded in parts, which begins sooner
_AGAIN_SECONDS = 60.0  # after which a file is looked into again that a process died of
_PLAIN = (".mp4", ".m4v", ".webm")  # taken as they are where a file cannot be looked into


@dataclass(frozen=True)
class Conversion:
    """What has to be made of a file: the arguments of `Conversions.begin`."""

    job: str
    options: dict[str, Any]


class Media:
    """The files of clips as a browser plays them.

    Parameters
    ----------
    limits : Limits

    Attributes
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        bounds = Bounds(
            limits.conversions, limits.waiting, limits.conversion_seconds, limits.memory_bytes, limits.cache_bytes
        )
        self._conversions = Conversions(cache_folder() / "converted-videos", bounds)
        self._looking = MediaProcess(_FACTS_MEMORY, 0)
        self._judging = MediaProcess(limits.memory_bytes, 0)  # of uploads: what they break is not the other one
        self._lock = threading.Lock()
        self._facts: OrderedDict[tuple[str, int, int], tuple[Facts, float]] = OrderedDict()

    def playback(self, url: str, file: Path, at_s: float) -> Playback:
        """How the file at ``url`` is played at a second of it."""
        facts = self.facts(file)
        part = None
        if _in_parts(facts):
            part = max(0, int((at_s - _LEAD) // PART_STEP))
            if facts.duration_s is not None:
                part = min(part, max(0, int((facts.duration_s - 1) // PART_STEP)))
        start_s = 0.0 if part is None else float(part * PART_STEP)
        end_s = None if part is None else start_s + PART_LENGTH
        if end_s is not None and facts.duration_s is not None and end_s >= facts.duration_s:
            end_s = None
        return Playback(
            url=url if part is None else f"{url}?part={part}",
            media_type=self.media_type(facts),
            kind=facts.kind,
            offset_s=start_s,
            end_s=end_s,
            how=facts.how,
        )

    def media_type(self, facts: Facts) -> str:
        """The type of what is sent."""
        if facts.how == "as it is":
            return facts.media_type
        return "image/jpeg" if facts.kind == "image" else "video/mp4"

    def conversion(self, facts: Facts, part: int | None) -> Conversion | None:
        """What has to be made of a file, or of one part of it; None: it is sent as it is."""
        if facts.how == "as it is":
            return None
        if facts.kind == "image":
            return Conversion("picture", {})
        if facts.how == "copied":
            return Conversion("copy", {})
        if not _in_parts(facts):
            return Conversion("encode", {"start_s": 0.0, "end_s": None})
        start_s = float((part or 0) * PART_STEP)
        return Conversion("encode", {"start_s": start_s, "end_s": start_s + PART_LENGTH})

    def begin(self, file: Path, wanted: Conversion) -> tuple[Future[Path], Callable[[], None]]:
        """Begin a conversion, or find what it made before; see `Conversions.begin`."""
        kept = self._conversions.kept(file, wanted.job, **wanted.options)
        if kept is None:
            return self._conversions.begin(file, wanted.job, **wanted.options)
        found: Future[Path] = Future()
        found.set_result(kept)
        return found, lambda: None

    def cannot_copy(self, file: Path) -> None:
        """From now on encode a file anew whose streams could not be copied."""
        facts = self.facts(file)
        self._remember(file, replace(facts, how="converted"), float("inf"))

    def facts(self, file: Path) -> Facts:
        """What a file is. It is remembered until the file changes."""
        try:
            key = _key(file)
        except OSError:
            return _guess(file)
        with self._lock:
            known = self._facts.get(key)
            if known is not None and known[1] > time.monotonic():
                self._facts.move_to_end(key)
                return known[0]
        try:
            found, seconds = Facts(**self._looking.ask("facts", _PATIENCE, path=str(file))), float("inf")
            if found.how == "copied" and key[1] > min(_MOST_COPIED, self.limits.cache_bytes // 4):
                found = replace(found, how="converted")
        except MediaError as error:
            found, seconds = _guess(file), _AGAIN_SECONDS if error.kind in ("died", "timeout") else float("inf")
        self._remember(file, found, seconds)
        return found

    def look_at_upload(self, file: Path) -> tuple[Literal["image", "video"], bytes]:
        """Check an upload by its contents: its kind, and a small JPEG of it.

        Raises
        ------
        UsageError
            No image or video, or one that is too large.
        """
        limits = self.limits
        options = {"pixels": limits.upload_pixels, "seconds": limits.upload_video_seconds}
        try:
            found = self._judging.ask("upload", limits.upload_seconds, source=str(file), **options)
        except MediaError as error:
            raise UsageError(f"the file cannot be searched by: {error}") from None
        return ("video" if found["kind"] == "video" else "image"), base64.b64decode(found["preview"])

    def close(self) -> None:
        """End all processes."""
        self._conversions.close()
        self._looking.close()
        self._judging.close()

    def _remember(self, file: Path, facts: Facts, seconds: float) -> None:
        try:
            key = _key(file)
        except OSError:
            return
        with self._lock:
            self._facts[key] = facts, time.monotonic() + seconds
            if len(self._facts) > _REMEMBERED:
                self._facts.popitem(last=False)


def _in_parts(facts: Facts) -> bool:
    long = facts.duration_s is None or facts.duration_s > WHOLE_SECONDS
    return facts.kind == "video" and facts.how == "converted" and long


def _guess(file: Path) -> Facts:
    plain = file.suffix.lower() in _PLAIN
    media_type = "video/webm" if file.suffix.lower() == ".webm" else "video/mp4"
    return Facts("video", media_type, "as it is" if plain else "converted")


def _key(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file), found.st_size, found.st_mtime_ns
