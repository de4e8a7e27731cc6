"""From a new file in a watched folder until a search finds it: ``supportset serve --videos`` as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.extract.films import write_films
from benchmarks.report import Figure, Row
from benchmarks.search.sizes import Plan

ROOT = Path(__file__).resolve().parents[2]
_FIRST = 3  # films at the start
_FILMS = {"full": 7, "quick": 1}  # that come one by one
_SHAPE = (640, 360)
_SECONDS = (10, 10)
_PATIENCE_S = 300.0


def measure(plan: Plan) -> Figure:
    """Copy films into the folder one by one, and ask until each is found."""
    count = _FILMS["quick" if plan.quick else "full"]
    figure = Figure("new-file", "A new file until it is found", sizes={"films": count, "seconds": _SECONDS[0]})
    if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "watchfiles")):
        figure.notes.append("left out: it takes the extra serve")
        return figure
    folder = plan.folder / "new-file"
    plan.tell("encoding films, and a small encoder pair")
    films = write_films(folder / "ready", _FIRST + count, _SECONDS, _SHAPE)
    pair = folder / "pair"
    make = [sys.executable, str(ROOT / "examples" / "tiny_clip.py"), str(pair), "--pictures", "16", "--steps", "1"]
    subprocess.run(make, capture_output=True, check=True)
    videos = folder / "videos"
    videos.mkdir()
    for film in films[:_FIRST]:
        shutil.copyfile(film, videos / film.name)
    words = ["serve", "--videos", videos, "--encoder", f"open_clip:{pair}", "--device", "cpu", "--port", "0"]
    command = [sys.executable, "-m", "supportset", *map(str, words), "--store", str(folder / "store")]
    environment = {**os.environ, "SUPPORTSET_CACHE": str(folder / "cache"), "SUPPORTSET_TOKEN": "benchmark"}
    plan.tell("starting serve --videos")
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().partition("/?")[0].strip()
            _wait(server, lambda: len(_found(url)) == _FIRST)
            opened = time.perf_counter() - started
            times = []
            for film in films[_FIRST:]:
                plan.tell(f"a new file: {film.name}")
                hidden = videos / f".{film.name}.part"
                shutil.copyfile(film, hidden)
                began = time.perf_counter()
                hidden.rename(videos / film.name)
                name = film.stem
                _wait(server, lambda name=name: name in _found(url))  # type: ignore[misc]
                times.append(time.perf_counter() - began)
        finally:
            server.send_signal(signal.SIGINT)
    figure.rows = [
        Row("new-file/median", "a new file until it is found: median", "", statistics.median(times), "s"),
        Row("new-file/most", "a new file until it is found: longest", "", max(times), "s"),
        Row("new-file/first", f"start of the server until {_FIRST} films are found", "", opened, "s"),
    ]
    figure.notes.append(
        f"films of {_SECONDS[0]} s, {_SHAPE[0]}x{_SHAPE[1]}, renamed into the folder when they are whole; a small "
        "random CLIP, so the time is that of waiting until a file is at rest, of starting the extraction, and "
        "of opening the library again"
    )
    return figure


def _found(url: str) -> set[str]:
    """Clips that a search finds."""
    body = json.dumps({"query": "a film", "k": 100, "by": "moment"}).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer benchmark"}
    request = urllib.request.Request(f"{url}/api/search", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            told: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (429, 503):  # asked too often, or nothing to search yet
            return set()
        raise
    return {hit["clip_id"] for hit in told["hits"]}


def _wait(server: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not is_so():
        if server.poll() is not None:
            raise RuntimeError(f"serve --videos ended with {server.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"not found within {_PATIENCE_S:.0f} s")
        time.sleep(0.1)
