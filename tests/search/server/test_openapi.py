"""The server keeps to its own OpenAPI, whatever is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from supportset.search.library import Library
from supportset.search.server.app import create_app
from supportset.search.server.limits import Limits
from tests.search.untrained import TEXTS

pytestmark = pytest.mark.slow
URL = "http://127.0.0.1:8765"
_EXAMPLES, _UPLOADS = 60, 15  # of each operation; an upload takes longer


@pytest.fixture(scope="module")
def described(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The OpenAPI of a server that may be asked any number of times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUPPORTSET_CACHE", str(tmp_path_factory.mktemp("cache")))
        library = Library.of_features("films", films / "features", device="cpu", videos=films / "videos")
        app = create_app([library], limits=Limits(rate=1e9, burst=1e9))
        schema = schemathesis.openapi.from_dict(app.openapi())
        schema.app = alive = _alive(app)
        with TestClient(alive, base_url=URL, raise_server_exceptions=False) as client:
            yield schema, client
        app.state.service.media.close()


def _alive(app: Any) -> Any:
    """The application, which clients that come and go do not stop."""

    async def http_only(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return http_only


OPERATIONS = [
    ("GET", "/api/libraries"),
    ("GET", "/api/status"),
    ("POST", "/api/search"),
    ("POST", "/api/uploads"),
    ("POST", "/api/search/file"),
    ("GET", "/api/libraries/{library}/clips/{clip_id}"),
    ("GET", "/api/libraries/{library}/curve/{clip_id}"),
    ("GET", "/api/libraries/{library}/playback/{clip_id}"),
    ("GET", "/media/{library}/video/{clip_id}"),
    ("GET", "/media/{library}/thumbnail/{clip_id}"),
    ("GET", "/media/uploads/{upload}"),
]


def test_every_operation_is_tried(described: Any) -> None:
    assert {(each.ok().method.upper(), each.ok().path) for each in described[0].get_all_operations()} == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_keeps_to_its_description(method: str, path: str, described: Any) -> None:
    schema, client = described
    most = _UPLOADS if method == "POST" and path != "/api/search" else _EXAMPLES

    @given(case=schema[path][method].as_strategy(), clip=st.sampled_from([None, *TEXTS]))
    @settings(max_examples=most, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case, clip: str | None) -> None:
        if clip is not None:  # names of this library, which no generator finds
            known = {"library": "films", "clip_id": clip}
            case.path_parameters = {name: known.get(name, value) for name, value in case.path_parameters.items()}
            if isinstance(case.body, dict) and "library" in case.body:
                case.body["library"] = "films"
        # some texts are no queries, and most bytes are no images: that is told with 400
        case.call_and_validate(session=client, base_url=URL, excluded_checks=[positive_data_acceptance])

    check()
