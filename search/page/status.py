"""What the status page shows: the libraries, and the extraction that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supportset.search.page.times import lasting
from supportset.search.server.answers import LibraryAnswer
from supportset.search.server.service import Service

FAILURES = 100  # that the page lists


def status(service: Service) -> dict[str, Any]:
    """What the server has and does."""
    told = service.status()
    jobs = [] if told.extraction is None else [_job(told.extraction)]
    return {
        "title": "Status · supportset",
        "here": "status",
        "jobs": jobs,
        "libraries": [_library(each) for each in told.libraries],
    }


def line(service: Service) -> dict[str, Any]:
    """What the first page says of an extraction that runs, in one line; empty where none does."""
    told = service.status()
    state = told.extraction or {}
    words = ""
    if state.get("clips") and state.get("phase") == "extracting":
        left_s = state.get("left_s")
        words = f"Extracting: {state['done']:,} of {state['clips']:,} clips" + (
            f", {lasting(left_s)} left" if left_s else ""
        )
    elif state and state.get("phase") != "idle":
        words = str(state.get("message") or f"Extraction: {state['phase']}")
    return {"line": words, "found": sum(each.clips for each in told.libraries), "extracts": told.extraction is not None}


def _library(told: LibraryAnswer) -> dict[str, Any]:
    encoder = told.retriever
    tiles = [
        ("Clips", f"{told.clips:,}"),
        ("Left out, videos gone", f"{told.left_out:,}"),
        ("Dataset", told.dataset or "none yet"),
        ("Thumbnails", "yes" if told.thumbnails else "no"),
        ("Search by picture", "yes" if told.media_queries else "no"),
    ]
    known = [encoder[key] for key in ("run", "encoder", "features") if encoder.get(key)]
    words = " · ".join(", ".join(map(str, each)) if isinstance(each, list) else str(each) for each in known)
    return {
        "name": told.name,
        "state": "ready" if told.ready else "nothing to search yet",
        "bad": not told.ready,
        "words": words,
        "tiles": tiles,
    }


def _job(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of `serve --videos`; see `supportset.search.ingest.status.Status.to_json`."""
    rate, left_s, failures = state.get("rate"), state.get("left_s"), state.get("failures") or []
    tiles = [
        ("Clips", f"{state.get('done', 0):,} of {state.get('clips', 0):,}"),
        ("Files", f"{state.get('files', 0):,}"),
    ]
    if rate:
        tiles.append(("Speed", f"{rate:.1f} clips/s" if rate >= 1 else f"{60 * rate:.1f} clips/min"))
    if left_s:
        tiles.append(("Time left", lasting(left_s)))
    for key, name in (("settling", "Still being copied"), ("gone", "Gone"), ("restarts", "Restarts")):
        if state.get(key):
            tiles.append((name, f"{state[key]:,}"))
    if failures:
        tiles.append(("Failed", f"{len(failures):,}"))
    words = [str(state[key]) for key in ("message", "error") if state.get(key)]
    if state.get("current") and state.get("phase") == "extracting":
        words.append(f"now {state['current']}")
    words.append(" · ".join(str(state[key]) for key in ("folder", "encoder") if state.get(key)))
    return {
        "name": state.get("dataset") or state.get("folder") or "videos",
        "state": state.get("phase", ""),
        "bad": bool(state.get("error") or state.get("message")),
        "done": state.get("done", 0),
        "total": state.get("clips", 0),
        "words": words,
        "tiles": tiles,
        "failures": [(each["file"], each["message"] or each["status"]) for each in failures[:FAILURES]],
        "failed_words": f"Failed: {len(failures):,}"
        + (f", the first {FAILURES} of them" if len(failures) > FAILURES else ""),
    }
