"""A hub that answers wrongly or not at all: one line, in time, without the token."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from supportset.store.errors import SupportsetError
from supportset.train import publish as module
from supportset.train.run_folder import RunFolder

TOKEN = "hf_notForOtherEyes"


@pytest.fixture(params=["401", "404", "500", "closes", "is silent", "is no hub"])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that repeats the token in what it says, over several lines."""
    how, over = request.param, threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if how == "is silent":
                over.wait(30)
            if how in ("closes", "is silent"):
                return
            content = json.dumps({"error": f"no\nto {self.headers['Authorization']}"}).encode()
            self.send_response(int(how) if how.isdigit() else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield how
    over.set()
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers_wrongly_is_one_line_without_the_token(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(RunFolder, "model_folder", lambda run: run.path)
    (tmp_path / "README.md").write_text("a card")
    with pytest.raises(SupportsetError, match="--push me/run: ") as told:
        module.publish(RunFolder(tmp_path), "me/run")
    assert "\n" not in str(told.value)
    assert TOKEN not in str(told.value) + caplog.text
    assert ("timed out" in str(told.value)) == (hub == "is silent")
    assert ("hf auth login" in str(told.value)) == (hub == "401")
