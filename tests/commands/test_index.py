"""`index`, and `search --index`: the same hits by every index, and what each tells of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from tests.extract.pairs import save_pair
from tests.search.untrained import TEXTS, plant

pytestmark = pytest.mark.slow

CLIPS, SAID = list(TEXTS), list(TEXTS.values())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the features of a tiny CLIP."""
    root = tmp_path_factory.mktemp("pair")
    save_pair("clip", root / "tiny")
    plant(root / "features", f"hf:{root / 'tiny'}")
    return root / "features"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "cache"))


def run(store: Path, *words: str) -> tuple[int, str, str]:
    asked = ("--zero-shot", "films/hf-tiny", "--store", str(store), "--device", "cpu")
    result = CliRunner().invoke(cli, [*words, *asked])
    return result.exit_code, result.stdout, result.stderr


def test_every_index_gives_the_same_hits(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    pytest.importorskip("lancedb")
    table = f"lancedb:{tmp_path / 'table'}"
    code, _, error = run(store, "search", SAID[0], "--by", "moment", "--index", table)
    assert code == 2
    assert f"make it with `supportset index ... --index {table}`" in error
    code, output, _ = run(store, "index", "--index", table)
    assert code == 0
    assert output == f"{table}: 5 clips, 9 parts, 5 added, 0 removed\n"
    found = {}
    for index in ("exact", "usearch", table):
        code, output, error = run(store, "search", SAID[0], "--by", "moment", "--index", index, "--json")
        assert code == 0
        found[index] = json.loads(output)
        assert ("recall@5 of the usearch index is 1.000, measured with 5 captions" in error) == (index == "usearch")
    assert len(found["exact"]["hits"]) == 5
    assert found["usearch"]["hits"] == found["exact"]["hits"] == found[table]["hits"]
    assert found["exact"]["index"] == {"index": "exact"}
    assert found["usearch"]["index"] == {"index": "usearch", "recall": 1.0, "k": 5, "queries": 5, "of": "captions"}
    assert found[table]["index"]["lacking"] == 0


def test_an_index_is_made_ahead_of_a_search(store: Path) -> None:
    for index in ("exact", "usearch"):
        code, output, _ = run(store, "index", "--index", index, "--json")
        told = json.loads(output)
        assert code == 0
        assert (told["index"], told["clips"], told["dataset"]) == (index, 5, "films")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("index", "--index", "flat"), "index 'flat' is not one of exact, usearch or lancedb:URL"),
        (("index", "runs/x"), "both the run runs/x and --zero-shot films/hf-tiny are given"),
        (("index", "--dataset", "x"), "--dataset needs a RUN"),
        (("search", "a ball", "--index", "usearch"), "--index usearch needs --by moment"),
        (("search", "a ball", "--by", "moment", "--index", "lancedb"), "is not one of exact, usearch or lancedb:URL"),
    ],
)
def test_wrong_use_is_one_line(words: tuple[str, ...], says: str, store: Path) -> None:
    code, _, error = run(store, *words)
    assert code == 2
    assert says in error
    assert len(error.strip().splitlines()) == 1
