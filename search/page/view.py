"""From the server's answers to what the templates write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from supportset.search.page import curve as curves
from supportset.search.page.asked import Asked, Example
from supportset.search.page.times import clock, span
from supportset.search.server.answers import ClipAnswer, CurveAnswer, HitAnswer, MomentAnswer, Playback, SearchAnswer

Card = dict[str, Any]
CAPTIONS = 5  # of a card that plays
STRIP = 12  # pictures below the player


def title_of(path: str | None, clip_id: str) -> str:
    """The name of a video as people call it: that of its file, without folder and ending."""
    return PurePosixPath(path).stem if path else clip_id


def video_page(library: str, clip_id: str, query: str = "", at_s: float | None = None) -> str:
    """The address of a video's own page."""
    parts = [f"q={quote(query)}"] if query else []
    parts += [f"t={at_s:.2f}"] if at_s else []
    return f"/video/{quote(library)}/{quote(clip_id)}" + (f"?{'&'.join(parts)}" if parts else "")


class Scale:
    """Scores as shares of a bar: from 0, or the lowest that is shown, to the best.

    Parameters
    ----------
    known : iterable of float or None
        All scores and cut-offs that are shown.
    """

    def __init__(self, known: Iterable[float | None]) -> None:
        scores = [each for each in known if each is not None] or [0.0]
        self._low = min(0.0, *scores)
        self._room = (max(scores) - self._low) or 1.0

    def of(self, score: float, cutoff: float | None) -> dict[str, Any]:
        """What the macro ``score`` writes."""
        return {
            "score": f"{score:.3f}",
            "share": self._share(score),
            "cut": None if cutoff is None else self._share(cutoff),
            "cut_words": None if cutoff is None else f"fits above {cutoff:.3f}",
        }

    def _share(self, score: float) -> float:
        return round(100 * min(max((score - self._low) / self._room, 0.0), 1.0), 1)


def hit_cards(answer: SearchAnswer, asked: Asked, clips: dict[str, ClipAnswer], can_like: bool) -> list[Card]:
    """The cards of a search's hits."""
    scale = Scale(each for hit in answer.hits for each in (hit.score, hit.cutoff))
    return [_hit_card(answer.library, hit, asked, clips[hit.clip_id], scale, can_like) for hit in answer.hits]


def _hit_card(library: str, hit: HitAnswer, asked: Asked, clip: ClipAnswer, scale: Scale, can_like: bool) -> Card:
    card = clip_card(library, clip, asked, can_like)
    example = Example("like", hit.clip_id, 1.0, *((hit.start_s, hit.end_s) if hit.end_s > hit.start_s else ()))
    found = {
        "start_s": hit.start_s,
        "time": span(hit.start_s, hit.end_s),
        "fits": hit.fits,
        "page": video_page(library, hit.clip_id, asked.text, hit.start_s),
        "thumbnail": hit.thumbnail or card["thumbnail"],
        "moments": [_moment(library, moment, clip, asked.text, scale, hit.cutoff) for moment in hit.moments],
    }
    if any(moment.clip_id != hit.clip_id for moment in hit.moments):
        found["duration"] = None  # of several clips of a file: how long it is, is not known
    shown = player(library, hit.clip_id, hit.playback) | scale.of(hit.score, hit.cutoff)
    return card | shown | like(asked, library, example) | found


def _moment(
    library: str, moment: MomentAnswer, clip: ClipAnswer, query: str, scale: Scale, cutoff: float | None
) -> dict[str, Any]:
    first, duration = clip.start_s or 0.0, clip.duration_s or 0.0
    x = 100 * (moment.start_s - first) / duration if duration else 0.0
    width = 100 * (moment.end_s - moment.start_s) / duration if duration else 0.0
    x = min(max(x, 0.0), 99.0)
    return scale.of(moment.score, cutoff) | {
        "time": span(moment.start_s, moment.end_s),
        "thumbnail": moment.thumbnail,
        "start": clock(moment.start_s),
        "start_s": round(moment.start_s, 2),
        "x": round(x, 2),
        "width": round(min(max(width, 1.0), 100 - x), 2),
        "page": video_page(library, moment.clip_id, query, moment.start_s),
    }


def clip_card(library: str, clip: ClipAnswer, asked: Asked, can_like: bool) -> Card:
    """The card of a clip that nothing was searched for."""
    shown = player(library, clip.clip_id, clip.playback)
    known = {
        "clip_id": clip.clip_id,
        "path": clip.path,
        "title": title_of(clip.path, clip.clip_id),
        "thumbnail": thumbnail(library, clip),
        "start_s": clip.start_s or 0.0,
        "time": "" if shown["still"] else clock(clip.duration_s or 0.0),
        "fits": None,
        "score": None,
        "moments": [],
        "duration": None if shown["still"] else clip.duration_s,
        "captions": clip.captions[:CAPTIONS],
        "page": video_page(library, clip.clip_id, asked.text),
        "can_like": can_like,
    }
    return known | shown | like(asked, library, Example("like", clip.clip_id))


def like(asked: Asked, library: str, example: Example) -> dict[str, str]:
    """Addresses of what is like an example, by the same filters."""
    changes: dict[str, Any] = {"library": library, "text": "", "without": "", "examples": (example,), "k": Asked.k}
    return {"like": asked.address(**changes), "like_fragment": asked.address("/results", **changes)}


def player(library: str, clip_id: str, playback: Playback | None) -> dict[str, Any]:
    """How a page plays a file: the macro ``video`` writes it, and page.js asks for other parts at ``where``."""
    if playback is None:
        return {"video": None, "still": False, "offset_s": 0.0, "end_s": None, "where": None}
    return {
        "video": playback.url,
        "still": playback.kind == "image",
        "offset_s": playback.offset_s,
        "end_s": playback.end_s,
        "where": f"/api/libraries/{quote(library)}/playback/{quote(clip_id)}",
    }


def thumbnail(library: str, clip: ClipAnswer, at_s: float | None = None) -> str | None:
    """The picture of a clip nearest to a time of the clip; by default of its middle."""
    if not clip.thumbnails:
        return None
    middle = clip.thumbnails[len(clip.thumbnails) // 2]
    seconds = sum(middle) / 2 if at_s is None else at_s
    return f"/media/{quote(library)}/thumbnail/{quote(clip.clip_id)}?at={seconds:.2f}"


def strip(library: str, clip: ClipAnswer, query: str, most: int = STRIP) -> list[dict[str, Any]]:
    """Pictures of a video in the order of time."""
    first, spans = clip.start_s or 0.0, clip.thumbnails
    count = min(most, len(spans))
    chosen = [spans[(2 * number + 1) * len(spans) // (2 * count)] for number in range(count)] if count > 1 else []
    return [
        {
            "url": thumbnail(library, clip, (start + end) / 2),
            "time": clock(first + start),
            "at": round(first + start, 2),
            "page": video_page(library, clip.clip_id, query, first + start),
        }
        for start, end in chosen
    ]


def curve(
    library: str, clip: ClipAnswer, answer: CurveAnswer, moments: Sequence[MomentAnswer], query: str, at_s: float
) -> dict[str, Any]:
    """The curve of a video and the moments in it."""
    drawn = curves.draw(answer.spans, answer.scores, answer.base, answer.cutoff, at_s)
    scale, x = Scale([*answer.scores, answer.cutoff]), drawn["x"]
    found = [
        scale.of(each.score, answer.cutoff)
        | {
            "start_s": round(each.start_s, 2),
            "time": span(each.start_s, each.end_s),
            "x": x(each.start_s),
            "width": round(max(x(each.end_s) - x(each.start_s), 0.3), 2),
            "thumbnail": each.thumbnail,
            "page": video_page(library, clip.clip_id, query, each.start_s),
        }
        for each in moments
    ]
    best = max(answer.scores)
    cut_words = None if answer.cutoff is None else f"cut-off {answer.cutoff:.3f}"
    told = "; ".join(f"{each['time']}, score {each['score']}" for each in found)
    fits = None if answer.cutoff is None else best > answer.cutoff
    words = {None: "", True: "the best fits", False: "nothing here fits"}[fits]
    said = (
        f"Scores of {clip.clip_id} for “{query}” from {clock(drawn['from_s'])} to {clock(drawn['to_s'])}. Best: {told}."
    )
    return drawn | {"moments": found, "words": words, "best": f"{best:.3f}", "cut_words": cut_words, "said": said}
