"""``supportset serve`` as a process: what it prints, the port it takes, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supportset.search import serving
from supportset.store.errors import SupportsetError
from tests.extract.films import write_video
from tests.extract.pairs import save_pair
from tests.search.untrained import TEXTS, plant

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    save_pair("clip", root / "tiny")
    plant(root / "features", f"hf:{root / 'tiny'}")
    for clip in TEXTS:
        write_video(root / f"{clip}.mp4", 25)
    os.truncate(root / "clip1.mp4", 50_000_000)  # more than a socket holds
    return root


@contextmanager
def served(films: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running server, and the URL that it prints."""
    places = ["--store", str(films / "features"), "--videos-root", str(films)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "serve", "--zero-shot", "films", *places, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SUPPORTSET_CACHE": str(films / "cache"), "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def ask(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_ends_soon_though_a_client_is_connected(films: Path, number: signal.Signals) -> None:
    with served(films) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        status, content = ask(f"{url}api/libraries")
        assert (status, json.loads(content)[0]["clips"]) == (200, len(TEXTS))
        assert ask(f"{url}media/films/video/clip0", Range="bytes=0-3") == (206, (films / "clip0.mp4").read_bytes()[:4])
        assert ask(url)[0] == 200  # the page
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/")))) as gone:
            gone.sendall(b"GET /media/films/video/clip1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert gone.recv(12) == b"HTTP/1.1 200"
        assert ask(f"{url}api/status")[0] == 200
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/")))) as idle:
            idle.sendall(b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n")
            time.sleep(0.2)
            process.send_signal(number)
            assert process.wait(30) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_other_addresses_of_this_machine_need_the_token(films: Path) -> None:
    with served(films, "--host", "0.0.0.0") as (_, url):
        address, _, token = url.partition("?token=")
        assert len(token) > 20
        assert ask(f"{address}api/libraries")[0] == 401
        assert ask(f"{address}api/libraries", Authorization=f"Bearer {token}")[0] == 200


def test_a_taken_port_is_one_line() -> None:
    first = serving.listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(SupportsetError, match=rf"127\.0\.0\.1 port {port}: .* --port 0 takes any free port"):
        serving.listen("127.0.0.1", port)
    first.close()
    with pytest.raises(SupportsetError, match="cannot listen on no-such-host"):
        serving.listen("no-such-host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "needed"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("127.8.8.8", False), ("0.0.0.0", True), ("::", True),
     ("192.168.0.4", True), ("my-machine", True)],
)  # fmt: skip
def test_which_addresses_need_a_token(host: str, needed: bool) -> None:
    assert serving.needs_token(host) is needed


def test_addresses_are_ones_to_click() -> None:
    listening = serving.listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    assert serving.address(listening, "0.0.0.0", "a-token") == f"http://127.0.0.1:{port}/?token=a-token"
    assert serving.address(listening, "::", None) == f"http://[::1]:{port}/"
    assert serving.address(listening, "::1", None) == f"http://[::1]:{port}/"
    listening.close()
