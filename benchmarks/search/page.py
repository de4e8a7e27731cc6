"""The page and the REST interface under ``wrk`` on loopback: requests a second, and how long one takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.report import Figure, Row
from benchmarks.search.library import MadeUp
from benchmarks.search.sizes import Plan, library_of

_LETTER = "b"  # the library that is served
_CLIENTS = (1, 8)
_SECONDS = {"full": 10, "quick": 1}
_ASK = """
wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
local number = 0
request = function()
  number = number + 1
  return wrk.format(nil, nil, nil, string.format('{"query": "%d", "k": 10, "by": "BY"}', number % 100))
end
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def measure(plan: Plan) -> Figure:
    """Ask for the page, its fragment with results, and searches over REST."""
    shape = plan.shapes[_LETTER]
    figure = Figure("page", f"The server under wrk, {shape.parts:,} parts", sizes={"parts": shape.parts})
    if shutil.which("wrk") is None or any(find_spec(name) is None for name in ("fastapi", "uvicorn")):
        figure.notes.append("left out: it takes wrk (the system's package) and the extra serve")
        return figure
    folder = library_of(plan, _LETTER)
    plan.tell("starting the server")
    command = [sys.executable, "-m", "benchmarks.search.page", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                raise RuntimeError("the server did not start")
            for name, says, path, by in (
                ("page", "the page", "/", None),
                ("results", "results on the page, by clip", "/results?query=7", None),
                ("clip", "search over REST, by clip", "/api/search", "clip"),
                ("moment", "search over REST, by moment", "/api/search", "moment"),
            ):
                for clients in _CLIENTS:
                    plan.tell(f"wrk, {clients} clients: {says}")
                    rows, note = _load(plan, url + path, by, clients, f"page.{name}/{clients}", says)
                    figure.rows += rows
                    figure.notes += note
        finally:
            server.terminate()
    figure.notes.append(
        "one process serves; a made-up text encoder takes no time, so this is the scan, the moments and the server; "
        "wrk runs beside it on the same cores"
    )
    return figure


def _load(plan: Plan, url: str, by: str | None, clients: int, name: str, says: str) -> tuple[list[Row], list[str]]:
    script = plan.folder / "ask.lua"
    script.write_text(_ASK.replace("BY", by or ""))
    seconds = _SECONDS["quick" if plan.quick else "full"]
    words = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
    told = subprocess.run(
        [*words, *(["-s", str(script)] if by else []), url], capture_output=True, text=True, check=True
    )
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", told.stdout)[1])  # type: ignore[index]
    at = {share: _milliseconds(told.stdout, share) for share in ("50", "99")}
    said = f"{says}, {clients} client{'s' * (clients > 1)}"
    rows = [
        Row(f"{name}/rate", said, "", rate, "requests/s"),
        Row(f"{name}/p50", f"{said}: p50", "", at["50"], "ms"),
        Row(f"{name}/p99", f"{said}: p99", "", at["99"], "ms"),
    ]
    failed = re.findall(r"(Non-2xx.*|Socket errors.*)", told.stdout)
    return rows, [f"{said}: {line.strip()}" for line in failed]


def _milliseconds(told: str, share: str) -> float:
    found = re.search(rf"^\s+{share}%\s+([\d.]+)(us|ms|s|m)$", told, re.MULTILINE)
    assert found is not None, told
    return float(found[1]) * _UNITS[found[2]]


def main(folder: Path) -> None:
    """Serve the library until SIGTERM, without a limit for one client; the first line is the URL."""
    from supportset.search import serving
    from supportset.search.library import Library
    from supportset.search.searcher import Searcher
    from supportset.search.server.limits import Limits

    listening = serving.listen(port=0)
    library = Library("library", lambda previous: Searcher(MadeUp(folder)))
    app = serving.build_app([library], limits=Limits(rate=1e9, burst=1e9))
    print(serving.address(listening, serving.HOST, None).rstrip("/"), flush=True)
    serving.serve(app, listening)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
