"""What REST and the page both answer with: plain functions, without HTTP."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import pyarrow.compute as pc

from supportset import __version__
from supportset.search.filters import parse_filter
from supportset.search.hits import nothing_fits
from supportset.search.library import Library, NotFound
from supportset.search.moments import Moment
from supportset.search.query import Query, Term, parse_query
from supportset.search.searcher import Hit
from supportset.search.server.answers import (
    ClipAnswer,
    ColumnAnswer,
    CurveAnswer,
    HitAnswer,
    LibraryAnswer,
    MomentAnswer,
    Playback,
    SearchAnswer,
    SearchOptions,
    StatusAnswer,
    TermsRequest,
    UploadAnswer,
)
from supportset.search.server.media import Media
from supportset.search.server.uploads import Upload, Uploads, Vectors
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Dataset

_KNOWN = ("clip_id", "path", "start_s", "end_s", "source")


def read_query(asked: str | TermsRequest) -> Query:
    """The query of a request; an upload is an image term with its id as value.

    Raises
    ------
    UsageError
        It cannot be read, or names a file of this machine.
    """
    if isinstance(asked, str):
        return parse_query(asked, files=False)
    return Query(
        tuple(
            Term("image" if term.kind == "upload" else term.kind, term.value, term.weight, term.start_s, term.end_s)
            for term in asked.terms
        )
    )


class Service:
    """The libraries of a server, and what can be asked of them. All methods block: call them through `Work`.

    Parameters
    ----------
    libraries : sequence of Library
        With different names.
    media : Media
        How their files are shown.
    uploads : Uploads
        Files that clients sent.
    status : callable, optional
        The state of a running extraction.
    """

    def __init__(
        self,
        libraries: Sequence[Library],
        media: Media,
        uploads: Uploads,
        status: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._libraries = {library.name: library for library in libraries}
        self.media, self.uploads, self._status = media, uploads, status

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
        return [_describe(library) for library in self._libraries.values()]

    def status(self) -> StatusAnswer:
        """What the server has and does."""
        extraction = None if self._status is None else dict(self._status())
        return StatusAnswer(version=__version__, libraries=self.libraries(), extraction=extraction)

    def search(self, query: Query, options: SearchOptions) -> SearchAnswer:
        """Search one library.

        Parameters
        ----------
        query : Query
            From `read_query`, or made of terms; the value of an image term is the id of an upload.
        options : SearchOptions

        Raises
        ------
        UsageError
            A query that cannot be searched for.
        NotFound
            An unknown library or upload.
        NotReady
            A library without features so far.
        """
        library = self.library(options.library)
        searcher, where = library.searcher, parse_filter(options.where)
        began = time.perf_counter()
        hits = searcher.search(
            [query],
            options.k,
            options.by,
            where=where,
            group=options.group,
            index=library.index if options.by == "moment" else "exact",
            given=self._uploaded(library, query),
        )[0]
        took_s = time.perf_counter() - began
        return SearchAnswer(
            library=library.name,
            hits=[self._hit(library, hit) for hit in hits],
            nothing_fits=bool(nothing_fits(hits)),
            left_out=searcher.left_out,
            took_s=took_s,
        )

    def clip(self, library: str | None, clip_id: str) -> ClipAnswer:
        """Tell what the tables say of a clip.

        Raises
        ------
        NotFound
            No such library or clip.
        """
        of = self.library(library)
        row, searcher, thumbnails = of.row(clip_id), of.searcher, of.thumbnails
        tables = searcher.dataset
        captions = tables.captions.filter(pc.equal(tables.captions["clip_id"], clip_id))
        splits = tables.splits.filter(pc.equal(tables.splits["clip_id"], clip_id))
        named = zip(splits["protocol"].to_pylist(), splits["split"].to_pylist(), strict=True)
        duration_s = None
        if all(clip_id in each for each in searcher.features.sets):
            times = searcher.features.read_timestamps([clip_id])
            duration_s = float(times[:, 1].max()) if len(times) else None
        return ClipAnswer(
            **{key: row[key] for key in _KNOWN},
            columns={key: value for key, value in row.items() if key not in _KNOWN} | _attributes(tables, clip_id),
            captions=captions["text"].to_pylist(),
            splits=list(dict.fromkeys(f"{protocol}/{split}" for protocol, split in named)),
            duration_s=duration_s,
            thumbnails=[] if thumbnails is None else thumbnails.spans(clip_id).tolist(),
            playback=self.playback(of.name, clip_id, row["start_s"] or 0.0),
        )

    def curve(self, library: str | None, clip_id: str, query: Query) -> CurveAnswer:
        """Score one clip over time.

        Raises
        ------
        NotFound
            No such library or clip.
        UsageError
            A query that cannot be searched for, a clip without features.
        """
        of = self.library(library)
        of.row(clip_id)
        searcher = of.searcher
        curve = searcher.curve(query, clip_id, self._uploaded(of, query))
        return CurveAnswer(
            clip_id=clip_id,
            spans=curve.spans.tolist(),
            scores=curve.scores.tolist(),
            base=curve.base,
            cutoff=curve.cutoff,
        )

    def playback(self, library: str | None, clip_id: str, at_s: float = 0.0) -> Playback | None:
        """How a browser plays a clip's file at a second of the file; None where there is no file.

        Raises
        ------
        NotFound
            No such library.
        """
        of = self.library(library)
        try:
            file = of.video_file(clip_id)
        except NotFound:
            return None
        return self.media.playback(f"/media/{quote(of.name)}/video/{quote(clip_id)}", file, at_s)

    def upload(self, library: str | None, file: BinaryIO) -> UploadAnswer:
        """Take a file to search a library by; it is decoded in processes that may die.

        Raises
        ------
        NotFound
            No such library.
        UsageError
            No image or video, one that is too large, or a library that has no visual encoder.
        """
        of = self.library(library)
        searcher = of.searcher
        with tempfile.TemporaryDirectory(prefix="supportset-upload-") as folder:
            path = Path(folder) / "upload"
            with path.open("wb") as copy:
                shutil.copyfileobj(file, copy)
            kind, preview = self.media.look_at_upload(path)
            if (encoder := searcher.retriever.media) is not None:
                encoder.limits = replace(encoder.limits, seconds=self.media.limits.upload_seconds)
            try:
                vector = searcher.embed(Query((Term("image", str(path)),)))
            except UsageError as error:
                raise UsageError(str(error).replace(str(path), "the file")) from None
        name = self.uploads.keep(Upload(of.name, vector, preview))
        return UploadAnswer(id=name, library=of.name, kind=kind, preview=f"/media/uploads/{name}")

    def thumbnail(self, library: str | None, clip_id: str, at_s: float = 0.0) -> bytes:
        """JPEG of the step of a clip that is nearest to ``at_s``, in seconds from the clip's start.

        Raises
        ------
        NotFound
            There is none.
        """
        of = self.library(library)
        picture = None if of.thumbnails is None else of.thumbnails.read(clip_id, at_s)
        if picture is None:
            raise NotFound(f"library {of.name!r} has no picture of clip {clip_id!r}")
        return picture

    def _uploaded(self, library: Library, query: Query) -> Vectors:
        """Vectors of a query's uploads. No term is left that search would read as a file of this machine."""
        files = [term for term in query.terms if term.kind in ("image", "video")]
        return {term: self.uploads.vector(term.value, library.name) for term in files}

    def _hit(self, library: Library, hit: Hit) -> HitAnswer:
        moments = [self._moment(library, moment, moment.clip_id or hit.clip_id) for moment in hit.moments]
        return HitAnswer(
            clip_id=hit.clip_id,
            score=hit.score,
            path=hit.path,
            start_s=hit.start_s,
            end_s=hit.end_s,
            moments=moments,
            thumbnail=moments[0].thumbnail,
            playback=self.playback(library.name, moments[0].clip_id, hit.start_s),
            fits=hit.fits,
            cutoff=hit.cutoff,
        )

    def _moment(self, library: Library, moment: Moment, clip_id: str) -> MomentAnswer:
        thumbnail = None
        if library.thumbnails is not None and clip_id in library.thumbnails:
            at_s = (moment.start_s + moment.end_s) / 2 - (library.row(clip_id)["start_s"] or 0.0)
            thumbnail = f"/media/{quote(library.name)}/thumbnail/{quote(clip_id)}?at={max(0.0, at_s):.2f}"
        return MomentAnswer(
            clip_id=clip_id, start_s=moment.start_s, end_s=moment.end_s, score=moment.score, thumbnail=thumbnail
        )


def _attributes(tables: Dataset, clip_id: str) -> dict[str, list[str]]:
    """The values of a clip in the further columns of its captions file, each once."""
    rows = tables.attributes.filter(pc.equal(tables.attributes["clip_id"], clip_id)).to_pylist()
    found: dict[str, list[str]] = {}
    for row in rows:
        values = found.setdefault(row["name"], [])
        if row["value"] not in values:
            values.append(row["value"])
    return found


def _describe(library: Library) -> LibraryAnswer:
    if not library.ready:
        return LibraryAnswer(
            name=library.name, dataset=None, retriever={}, clips=0, left_out=0, columns=[], ready=False,
            media_queries=False, thumbnails=False,
        )  # fmt: skip
    searcher = library.searcher
    return LibraryAnswer(
        name=library.name,
        dataset=searcher.dataset.name,
        retriever=searcher.retriever.describe(),
        clips=len(searcher.clip_ids),
        left_out=searcher.left_out,
        columns=[ColumnAnswer.model_validate(each.to_json()) for each in searcher.describe_columns()],
        ready=True,
        media_queries=searcher.retriever.media is not None,
        thumbnails=library.thumbnails is not None,
    )
