"""What the server answers: the schemas of REST, and what the page's templates are filled with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from supportset.search.query import MOST_TERMS

Span = Annotated[list[float], Field(min_length=2, max_length=2, description="Start and end.")]


class Playback(BaseModel):
    """How a browser shows a clip's file."""

    url: str = Field(description="Path on this server. It takes ranges of bytes.")
    media_type: str = Field(description="`video/mp4`, `image/jpeg`, ...")
    kind: Literal["video", "image"]
    offset_s: float = Field(
        0.0, description="Seconds of the file at which the response begins: subtract it from a moment."
    )
    end_s: float | None = Field(None, description="Where in the file the response ends; null: at its end.")
    how: Literal["as it is", "copied", "converted"] = Field(
        "as it is", description="Whether the file is sent as it is, copied into an MP4, or encoded anew."
    )


class MomentAnswer(BaseModel):
    """A part of a clip that fits."""

    clip_id: str = Field(description="Of the clip that it is in; others than the hit's where a video has several.")
    start_s: float = Field(description="Seconds of the file.")
    end_s: float
    score: float
    thumbnail: str | None = Field(None, description="Path of a picture of this moment; null: there is none.")


class HitAnswer(BaseModel):
    """One clip that was found."""

    clip_id: str
    score: float = Field(description="A cosine.")
    path: str | None = Field(description="The file, relative to the folder of the videos; null: not known.")
    start_s: float = Field(description="The best moment, in seconds of the file. Both are 0 for a picture.")
    end_s: float
    moments: list[MomentAnswer] = Field(description="The best first.")
    thumbnail: str | None = Field(description="Path of a picture of the best moment; null: there is none.")
    playback: Playback | None = Field(description="Null: the file is not there.")
    fits: bool | None = Field(None, description="Whether the score is above the cut-off; null: not calibrated.")
    cutoff: float | None = Field(None, description="What it must score to fit; null: not calibrated.")


class SearchAnswer(BaseModel):
    """What was found."""

    library: str
    hits: list[HitAnswer] = Field(description="The best first.")
    nothing_fits: bool = Field(description="Whether every hit scores below the cut-off, or there is none.")
    left_out: int = Field(description="Clips that are not searched, as their videos are gone.")
    took_s: float = Field(description="Seconds of the search itself.")


class ColumnAnswer(BaseModel):
    """A column that `where` filters by."""

    name: str
    type: Literal["text", "number", "date"]
    values: list[str] | None = Field(description="Its distinct values; null: more than 50.")


class LibraryAnswer(BaseModel):
    """One searched collection."""

    name: str
    dataset: str | None
    retriever: dict[str, Any] = Field(description="What compares text with clips: encoder or run, hashes, options.")
    clips: int
    left_out: int = Field(description="Clips that are not searched, as their videos are gone.")
    columns: list[ColumnAnswer] = Field(description="What `where` filters by.")
    ready: bool = Field(description="Whether there is something to search.")
    media_queries: bool = Field(description="Whether it can be searched by an image or a video.")
    thumbnails: bool


class ClipAnswer(BaseModel):
    """One clip of a library."""

    clip_id: str
    path: str | None
    start_s: float | None = Field(description="The clip's part of the file, in seconds; null: all of it.")
    end_s: float | None
    source: str | None
    columns: dict[str, Any] = Field(
        description="Further columns of the dataset's tables; those of a captions file are lists of their values."
    )
    captions: list[str]
    splits: list[str] = Field(description="As `protocol/split`.")
    duration_s: float | None = Field(description="Of the clip, by its features; null: it has none.")
    thumbnails: list[Span] = Field(description="Times of its pictures, seconds from the clip's start.")
    playback: Playback | None


class CurveAnswer(BaseModel):
    """The scores of one clip over time."""

    clip_id: str
    spans: list[Span] = Field(description="Seconds of the file.")
    scores: list[float]
    base: float = Field(description="What unrelated footage of the library scores.")
    cutoff: float | None = Field(description="Scores above it fit; null: not calibrated.")


class StatusAnswer(BaseModel):
    """What the server has and does."""

    version: str
    libraries: list[LibraryAnswer]
    extraction: dict[str, Any] | None = Field(description="Progress and failures; null: nothing is extracted here.")


class ErrorAnswer(BaseModel):
    """Why a request failed."""

    error: str = Field(description="One line.")


class UploadAnswer(BaseModel):
    """An uploaded image or video: a term of further queries, for as long as the server remembers it."""

    id: str
    library: str = Field(description="The library that it can be searched in.")
    kind: Literal["image", "video"]
    preview: str = Field(description="Path of a small picture of it.")


class TermRequest(BaseModel):
    """One part of a query."""

    kind: Literal["text", "moment", "upload"] = "text"
    value: str = Field(min_length=1, max_length=2000, description="A text, a clip, or the id of an upload.")
    weight: float = Field(1.0, ge=-100, le=100, allow_inf_nan=False, description="Not 0; below 0: what is not wanted.")
    start_s: float | None = Field(None, ge=0, le=1e9, description="Of a moment, in seconds of the file.")
    end_s: float | None = Field(None, ge=0, le=1e9)


class TermsRequest(BaseModel):
    """A query of several parts: their weighted embeddings are added."""

    terms: list[TermRequest] = Field(min_length=1, max_length=MOST_TERMS)


class SearchOptions(BaseModel):
    """Where to search, and how."""

    library: str | None = Field(None, max_length=200, description="By default the first one.")
    k: int = Field(10, ge=1, le=200, description="How many hits.")
    by: Literal["clip", "moment"] = Field("moment", description="What is compared: whole clips, or their best parts.")
    where: list[Annotated[str, Field(max_length=500)]] = Field(
        default=[], max_length=20, description="Conditions that all must hold, as `duration < 10` or `name ~ beach`."
    )
    group: Literal["clip", "video"] = Field("video", description="Whether clips of one file are one hit.")


class FileSearchOptions(SearchOptions):
    """What else to search for, beside an uploaded file."""

    weight: float = Field(1.0, ge=-100, le=100, allow_inf_nan=False, description="Of the file. Not 0.")
    text: str | None = Field(None, max_length=2000, description="A text, or a combination of terms.")


class SearchRequest(SearchOptions):
    """What to search for."""

    query: Annotated[str, Field(min_length=1, max_length=2000)] | TermsRequest = Field(
        description='A text, `"beach" + 0.5*moment:CLIP_ID - "people"`, or its parts.'
    )
