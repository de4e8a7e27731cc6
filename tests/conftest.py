"""Fixtures that every room's tests use."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.s3_server import S3Server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real annotations and clips beside the checkout; a test that needs it skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not here: {folder} is absent")
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with one bucket; the environment names it, and a cache for what is read from it."""
    import s3fs  # here, as few tests need them

    from tests.s3_server import BUCKET, S3Server

    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setenv("SUPPORTSET_CACHE", str(tmp_path_factory.mktemp("cache")))
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield server
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@pytest.fixture
def s3(s3_server: S3Server) -> str:
    """A URL of the server under which nothing is yet."""
    return f"{s3_server.bucket}/{uuid.uuid4().hex}"
