"""What REST and the page both answer with: plain functions, without HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from supportset import __version__
from supportset.search.library import Library, NotFound
from supportset.search.searcher import Hit, Searcher
from supportset.search.server.answers import (
    ClipAnswer,
    CurveAnswer,
    HitAnswer,
    LibraryAnswer,
    MomentAnswer,
    Playback,
    SearchAnswer,
    SearchRequest,
    StatusAnswer,
)
from supportset.search.server.media import Media


class Service:
    """The libraries of a server, and what can be asked of them. All methods block: call them through `Work`.

    Parameters
    ----------
    libraries : sequence of Library
        With different names.
    media : Media
        How their files are shown.
    status : callable, optional
        The state of a running extraction.
    """

    def __init__(
        self, libraries: Sequence[Library], media: Media, status: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        self._libraries = {library.name: library for library in libraries}
        self._media, self._status = media, status

    def library(self, name: str | None) -> Library:
        """A library by its name; the first one for None.

        Raises
        ------
        NotFound
            No such library; the message lists those that are there.
        """
        if name is None:
            return next(iter(self._libraries.values()))
        if name not in self._libraries:
            raise NotFound(f"no library {name!r}: there are {', '.join(self._libraries)}")
        return self._libraries[name]

    def libraries(self) -> list[LibraryAnswer]:
        """What each library is."""
        return [self._describe(library) for library in self._libraries.values()]

    def status(self) -> StatusAnswer:
        """What the server has and does."""
        extraction = None if self._status is None else dict(self._status())
        return StatusAnswer(version=__version__, libraries=self.libraries(), extraction=extraction)

    def search(self, request: SearchRequest) -> SearchAnswer:
        """Search one library.

        Raises
        ------
        UsageError
            A query that cannot be searched for.
        """
        library = self.library(request.library)
        searcher = library.searcher
        began = time.perf_counter()
        hits = searcher.search([request.query], request.k, request.by)[0]
        took_s = time.perf_counter() - began
        return SearchAnswer(
            library=library.name,
            hits=[self._hit(library, hit) for hit in hits],
            nothing_fits=False,
            left_out=searcher.left_out,
            took_s=took_s,
        )

    def clip(self, library: str, clip_id: str) -> ClipAnswer:
        """Tell what the tables say of a clip."""
        of = self.library(library)
        row = of.row(clip_id)
        known = ("clip_id", "path", "start_s", "end_s", "source")
        return ClipAnswer(
            **{key: row[key] for key in known},
            columns={key: value for key, value in row.items() if key not in known},
            captions=[],
            splits=[],
            duration_s=None,
            thumbnails=[],
            playback=self.playback(library, clip_id, row["start_s"] or 0.0),
        )

    def curve(self, library: str, clip_id: str, query: str) -> CurveAnswer:
        """Score one clip over time."""
        raise NotFound("curves are not there yet")

    def playback(self, library: str, clip_id: str, at_s: float = 0.0) -> Playback | None:
        """How a browser plays a clip's file at a second of the file; None where there is no file."""
        of = self.library(library)
        try:
            file = of.video_file(clip_id)
        except NotFound:
            return None
        return self._media.playback(f"/media/{quote(of.name)}/video/{quote(clip_id)}", file, at_s)

    def _hit(self, library: Library, hit: Hit) -> HitAnswer:
        start_s = library.row(hit.clip_id)["start_s"] or 0.0
        moments = [
            MomentAnswer(
                start_s=moment.start_s,
                end_s=moment.end_s,
                score=moment.score,
                thumbnail=self._thumbnail(library, hit.clip_id, (moment.start_s + moment.end_s) / 2 - start_s),
            )
            for moment in hit.moments
        ]
        return HitAnswer(
            clip_id=hit.clip_id,
            score=hit.score,
            path=hit.path,
            start_s=hit.start_s,
            end_s=hit.end_s,
            moments=moments,
            thumbnail=moments[0].thumbnail,
            playback=self.playback(library.name, hit.clip_id, hit.start_s),
        )

    def _thumbnail(self, library: Library, clip_id: str, at_s: float) -> str | None:
        if library.thumbnails is None:
            return None
        return f"/media/{quote(library.name)}/thumbnail/{quote(clip_id)}?at={max(0.0, at_s):.2f}"

    def _describe(self, library: Library) -> LibraryAnswer:
        searcher: Searcher | None = library.searcher if library.ready else None
        return LibraryAnswer(
            name=library.name,
            dataset=None if searcher is None else searcher.dataset.name,
            retriever={} if searcher is None else searcher.retriever.describe(),
            clips=0 if searcher is None else len(searcher.clip_ids),
            left_out=0 if searcher is None else searcher.left_out,
            columns={},
            ready=searcher is not None,
            media_queries=False,
            thumbnails=library.thumbnails is not None,
        )
