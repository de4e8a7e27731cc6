"""A stand-in for a model hub on loopback: the requests that an upload makes, and what was uploaded."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in"


class HubServer:
    """Serves until `stop`.

    Attributes
    ----------
    url : str
        For ``HF_ENDPOINT``.
    repos : dict of str to dict
        ``private`` and ``files`` (path to content) of each repository.
    asked : list of str
        Method and path of each request.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self._large: dict[str, bytes] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.asked.append(f"{self.command} {self.path}")
                allowed = self.path.startswith("/large/") or self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status, said = server._said(self.path, body) if allowed else (401, {"error": "Invalid token"})
                content = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PUT = do_GET = _answer  # noqa: N815 - names of the standard library

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End serving."""
        self._http.shutdown()
        self._http.server_close()

    def _said(self, path: str, body: bytes) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            there = name in self.repos
            self.repos.setdefault(name, {"private": asked.get("visibility") == "private", "files": {}})
            return (409 if there else 200), {"url": f"{self.url}/{name}", "name": name}
        if path == "/api/validate-yaml":  # of the card's front matter
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/large/"):
            self._large[path.removeprefix("/large/")] = body
            return 200, {}
        owner, name = path.removeprefix("/api/models/").lstrip("/").split("/")[:2]
        repo = self.repos[f"{owner}/{name.removesuffix('.git')}"]
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": each["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
                    for each in files
                ]
            }  # fmt: skip
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.url}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if path.endswith("/commit/main"):
            for each in map(json.loads, body.splitlines()):
                value = each["value"]
                if each["key"] == "file":
                    repo["files"][value["path"]] = base64.b64decode(value["content"])
                elif each["key"] == "lfsFile":
                    content = self._large[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
                    repo["files"][value["path"]] = content
            return 200, {"commitUrl": f"{self.url}/{owner}/{name}/commit/1", "commitOid": "1", "success": True}
        return 200, {"sha": "1", "siblings": [], "id": f"{owner}/{name}"}
