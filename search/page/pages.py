"""What each page shows: from the service's answers to the content of the templates. All functions block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from supportset.search.library import Library, NotFound, NotReady
from supportset.search.moments import find_moments
from supportset.search.page import finding, status, view
from supportset.search.page.asked import FIRST, MOST, Asked
from supportset.search.page.times import clock, span
from supportset.search.server.answers import ClipAnswer, MomentAnswer, SearchOptions
from supportset.search.server.service import Service
from supportset.search.server.work import Busy
from supportset.store.errors import SupportsetError, UsageError


def search(service: Service, asked: Asked) -> dict[str, Any]:
    """The query and its answer; without a query what one can begin with.

    Raises
    ------
    SupportsetError
        See `Service.search`.
    """
    library = service.library(asked.library or None)
    content = _frame(service, library, asked)
    if not asked.something:
        line = status.line(service)
        return content | _start(service, library, asked) | {"news": line | {"known": line["found"]}}
    where = finding.conditions(asked, content["columns"])
    answer = service.search(asked.query(), SearchOptions(library=library.name, k=asked.k, by=asked.by, where=where))
    clips = {hit.clip_id: service.clip(library.name, hit.clip_id) for hit in answer.hits}
    cards = view.hit_cards(answer, asked, clips, content["can_like"])
    fitting = [card for card in cards if card["fits"] is not False]
    count = len(fitting)
    found = f"{count} {'result' if count == 1 else 'results'}" if count < asked.k else f"The best {count}"
    heading = f"{found} {asked.words}"
    left_out = f"; {answer.left_out:,} left out, as their videos are gone" if answer.left_out else ""
    more = {
        "page": asked.address(k=min(asked.k + FIRST, MOST)),
        "fragment": asked.address("/results", k=min(asked.k + FIRST, MOST)),
    }
    nothing = "What comes nearest scores no higher than unrelated queries do."
    return content | {
        "hits": cards,
        "fitting": fitting,
        "others": [card for card in cards if card["fits"] is False],
        "heading": heading,
        "aside": f"in {content['count']}, {1000 * answer.took_s:.0f} ms{left_out}",
        "nothing": nothing,
        "more": more if len(answer.hits) == asked.k < MOST else None,
        "said": heading if fitting else "Nothing in this library fits",
    }


def failed(service: Service, asked: Asked, error: SupportsetError) -> dict[str, Any]:
    """The query, and why it has no answer."""
    try:
        library = service.library(asked.library or None)
    except UsageError:
        library, asked = service.library(None), Asked()
    try:
        content = _frame(service, library, asked)
    except SupportsetError:
        content = _frame(service, library, Asked())
    return content | problem(error, absent="This cannot be searched for")


def problem(error: SupportsetError, absent: str = "Nothing is here") -> dict[str, Any]:
    """An error in words, with the headline ``absent`` for what does not exist."""
    match error:
        case NotReady():
            head = "Nothing to search yet"
        case Busy():
            head = "The server is busy"
        case NotFound():
            head = absent
        case UsageError():
            head = "This cannot be searched for"
        case _:
            head = "The search failed"
    words = str(error) if isinstance(error, (UsageError, Busy, NotReady)) else "The server's log has the reason."
    words = words[:1].upper() + words[1:]
    return {"problem": {"head": head, "words": words}, "title": head, "said": head}


def _frame(service: Service, library: Library, asked: Asked) -> dict[str, Any]:
    """What the form shows, with and without an answer."""
    told = {each.name: each for each in service.libraries()}
    own = told[library.name]
    columns = finding.columns(own.columns, asked)
    title = f"{asked.text or 'Like an example'} · supportset" if asked.something else "Search · supportset"
    count = f"{own.clips:,} {finding.things(library, own.clips)}"
    return {
        "asked": replace(asked, library=library.name),
        "libraries": list(told.values()),
        "columns": columns,
        "active": finding.active(asked, columns),
        "chips": finding.chips(service, library, asked) if library.ready else [],
        "takes_files": own.media_queries,
        "can_like": library.ready and library.searcher.retriever.weighting is None,
        "title": title,
        "said": "",
        "problem": None,
        "count": count,
        "hits": [],
        "fitting": [],
        "others": [],
        "greeting": f"Search {count} with words, a picture, or another moment."
        if own.clips
        else "Nothing to search yet.",
        "library_words": count,
        "heading": "",
        "aside": "",
        "nothing": "",
        "more": None,
        "suggestions": [],
        "samples": [],
        "news": {"extracts": False},
    }


def _start(service: Service, library: Library, asked: Asked) -> dict[str, Any]:
    """Queries to try, and some videos."""
    if not library.ready:
        return {}
    asked = replace(asked, library=library.name)
    can_like = library.searcher.retriever.weighting is None
    clips = [service.clip(library.name, clip_id) for clip_id in finding.samples(library)]
    return {
        "suggestions": [
            {"text": text, "page": asked.address(text=text), "fragment": asked.address("/results", text=text)}
            for text in finding.suggestions(library.searcher)
        ],
        "samples": [view.clip_card(library.name, clip, asked, can_like) for clip in clips],
    }


def video(service: Service, name: str, clip_id: str, query: str, at_s: float) -> dict[str, Any]:
    """One video: what is known of it, and the curve of a query.

    Raises
    ------
    NotFound
        No such library or clip.
    """
    library, clip = service.library(name), service.clip(name, clip_id)
    asked = Asked(name, query)
    content: dict[str, Any] = {
        "clip": view.clip_card(name, clip, asked, library.searcher.retriever.weighting is None),
        "query": query,
        "title": f"{view.title_of(clip.path, clip_id)} · supportset",
        "captions": clip.captions,
        "curve": None,
        "problem": None,
        "back": asked.address() if query else None,
        "strip": view.strip(name, clip, query),
        "facts": _facts(clip),
        "start_s": at_s or clip.start_s or 0.0,
    }
    if query:
        try:
            found = service.curve(name, clip_id, asked.query())
        except UsageError as error:
            return content | {"problem": problem(error)["problem"]}
        cut = find_moments(found.scores, found.spans, found.base)
        first = clip.start_s or 0.0
        moments = [
            MomentAnswer(
                clip_id=clip_id,
                start_s=each.start_s,
                end_s=each.end_s,
                score=each.score,
                thumbnail=view.thumbnail(name, clip, (each.start_s + each.end_s) / 2 - first),
            )
            for each in cut
        ]
        content["curve"] = view.curve(name, clip, found, moments, query, at_s or moments[0].start_s)
        if not at_s:
            content["start_s"] = moments[0].start_s
    return content


def _facts(clip: ClipAnswer) -> list[tuple[str, str]]:
    """What the tables say of a clip."""
    facts = [("File", clip.path or "not known")]
    if clip.path is None or view.title_of(clip.path, "") != clip.clip_id:
        facts.append(("Clip", clip.clip_id))
    if clip.duration_s:
        facts.append(("Length", clock(clip.duration_s)))
    if clip.start_s is not None and clip.end_s is not None:
        facts.append(("Part of the file", span(clip.start_s, clip.end_s)))
    if splits := [each for each in clip.splits if not each.endswith("/all")]:
        facts.append(("Splits", ", ".join(splits)))
    if clip.playback is not None and clip.playback.how != "as it is":
        facts.append(("Shown", clip.playback.how + " for the browser"))
    for name, value in clip.columns.items():
        if value is not None:
            words = ", ".join(value) if isinstance(value, list) else str(value)
            facts.append((name.replace("_", " ").capitalize(), words))
    return facts
