"""The command ``search``: its queries, filters and groups, what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from supportset.commands.main import cli
from tests.extract.pairs import save_pair
from tests.search.untrained import TEXTS, plant


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("search")
    save_pair("clip", root / "tiny")
    plant(root / "features", f"hf:{root / 'tiny'}")
    return root


@pytest.fixture(autouse=True)
def _own_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPPORTSET_CACHE", str(root / "cache"))


def search(root: Path, *words: str) -> Result:
    fixed = ["--zero-shot", "films/hf-tiny", "--store", str(root / "features"), "--device", "cpu"]
    return CliRunner().invoke(cli, ["search", *fixed, *words])


def found(root: Path, *words: str) -> dict[str, object]:
    result = search(root, "--json", *words)
    assert result.exit_code == 0, result.output
    told: dict[str, object] = json.loads(result.stdout)
    return told


def ids(told: dict[str, object]) -> list[str]:
    hits = told["hits"]
    assert isinstance(hits, list)
    return [hit["clip_id"] for hit in hits]


def test_options_say_the_same_as_the_written_form(root: Path) -> None:
    written = found(root, '"a red ball" + moment:clip3 - "blue star"')
    options = found(root, '"a red ball"', "--like", "clip3", "--not", "blue star")
    assert written == options
    assert "clip3" not in ids(written)
    assert found(root, "--like", "clip3", "-k", "100")["query"] == 'moment:"clip3"'


def test_a_filter_names_the_clips(root: Path) -> None:
    assert sorted(ids(found(root, "a red ball", "--where", "duration >= 2", "-k", "9"))) == ["clip1", "clip2", "clip4"]
    assert ids(found(root, "a red ball", "--where", "duration >= 2", "--where", "text ~ RINGS")) == ["clip2"]
    assert found(root, "a red ball", "--where", "split = train")["nothing_fits"] is True
    assert search(root, "a red ball", "--where", "split = train").output == "no clip passes the filter split = train\n"


@pytest.mark.parametrize("text", list(TEXTS.values()))
def test_what_fits_is_told_in_words_and_in_json(text: str, root: Path) -> None:
    told, words = found(root, text), search(root, text).output
    hits = told["hits"]
    assert isinstance(hits, list)
    assert len(hits) == 5
    assert ("nothing in this library fits" in words) == told["nothing_fits"]
    assert words.count("? ") == sum(not hit["fits"] for hit in hits)
    assert all(hit["moments"][0]["clip_id"] == hit["clip_id"] for hit in hits)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (['"a" + b'], "cannot be read at '+ b'"),
        (["--not", "people"], "give a RUN and a QUERY"),
        (["a", "--where", "camera = 1"], "no column 'camera'; there are split, folder, name, date, duration"),
        (["a", "--where", "duration"], "write COLUMN OPERATOR VALUE"),
        (["--image", "absent.jpg"], "absent.jpg: no such file"),
        (["--like", "absent"], "no clip 'absent' with features"),
        (["a", "--backbone", "x", "--backbone", "y"], "--backbone is given twice"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], message: str, root: Path) -> None:
    result = search(root, *words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
