"""The container's files, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from supportset.commands.main import cli
from supportset.commands.serve import serve_command

ROOT = Path(__file__).resolve().parents[1]
LINES = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def served() -> dict[str, Any]:
    """What the command of the image asks for, by the command line's own parser."""
    (command,) = instructions("CMD")
    program, verb, *words = json.loads(command)
    assert program == "supportset"
    assert cli.get_command(cli.make_context("supportset", [verb], resilient_parsing=True), verb) is serve_command
    return serve_command.make_context("serve", words).params


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    sources = [source for line in instructions("COPY") for source in shlex.split(line)[:-1]]
    assert "supportset" in sources
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in kept), source
    assert sorted(kept) == sorted(sources)


def test_all_packages_are_copied() -> None:
    linked = {path.name for path in (ROOT / "supportset").iterdir() if path.is_symlink()}
    sources = {source for line in instructions("COPY") for source in shlex.split(line)[:-1]}
    assert linked <= sources


def test_the_command_is_one_that_serve_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPPORTSET_TOKEN", "secret")
    params = served()
    assert (params["host"], params["token"]) == ("0.0.0.0", "secret")
    assert instructions("EXPOSE") == [str(params["port"])]
    volumes = json.loads(instructions("VOLUME")[0])
    assert {str(params["videos"]), params["store"]} < set(volumes)
    assert not instructions("USER")[-1].startswith(("0", "root"))


def test_the_composition_fits_the_image() -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["supportset"]
    port = served()["port"]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]  # this machine only
    inside = {volume.rsplit(":/")[-1].removesuffix(":ro") for volume in service["volumes"]}
    assert {f"/{name}" for name in inside} == set(json.loads(instructions("VOLUME")[0]))
    assert any(volume.endswith(":/videos:ro") for volume in service["volumes"])
    assert "SUPPORTSET_TOKEN" in service["environment"]
    assert [name.partition("=")[0] for name in instructions("ARG")] == list(service["build"]["args"])
