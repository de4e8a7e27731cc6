"""Whoever reads features compares them with their checksums, and a wrong name costs no import of torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.search.run import search
from supportset.store.errors import SupportsetError
from supportset.train.caption import caption
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from tests.train.small_store import config, damage_features, plant

WRONG = "are not what was written"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked")
    plant(folder / "store")
    setting = config(support={"captioning": "identity"}, optim={"epochs": 1})
    return train(setting, folder / "store", folder / "run", device="cpu").run


def test_damaged_features_are_refused_by_everything_that_reads_them(run: Path, tmp_path: Path) -> None:
    store = shutil.copytree(run.parent / "store", tmp_path / "store")
    damage_features(store)
    copy = shutil.copytree(run, tmp_path / "run")
    for read in (
        lambda: train(config(optim={"epochs": 1}), store, tmp_path / "new", device="cpu"),
        lambda: evaluate(copy, store=store, device="cpu"),
        lambda: evaluate(copy, split="holdout", store=store, device="cpu"),
        lambda: search(copy, "a red ball", 3, store, device="cpu"),
        lambda: caption(copy, store, beams=1, device="cpu"),
    ):
        with pytest.raises(SupportsetError, match=WRONG):
            read()
    result = CliRunner().invoke(cli, ["report", str(copy), "--support", "--store", str(store), "--device", "cpu"])
    assert result.exit_code == 1
    assert WRONG in result.stderr
    assert not (copy / "eval").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["search", "RUN", "a ball", "--store", "nowhere"], "nowhere"),
        (["search", "nowhere", "a ball"], "nowhere: not a run folder"),
        (["search", "RUN", " "], "is blank"),
        (["eval", "RUN", "--store", "STORE", "--dataset", "smal"], "smal"),
        (["eval", "RUN", "--store", "STORE", "--split", "tset"], "tset"),
        (["serch", "RUN", "a ball"], "Did you mean search or serve?"),
    ],
)
def test_wrong_names_are_one_line_without_torch(run: Path, words: list[str], expected: str) -> None:
    names = {"RUN": str(run), "STORE": str(run.parent / "store")}
    script = (
        "import sys; from supportset.commands.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *(names.get(word, word) for word in words)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert expected in done.stderr.splitlines()[-1]
    assert done.stdout.strip() == "False"


def test_a_query_in_other_bytes_is_one_line(run: Path) -> None:
    with pytest.raises(SupportsetError, match=r"'caf\\udce9' is not UTF-8 text") as error:
        search(run, "caf\udce9", 3, run.parent / "store", device="cpu")
    assert error.value.exit_code == 2


def test_text_from_elsewhere_is_printed_as_text() -> None:
    from supportset.store.errors import printable, printable_lines

    assert printable("a\x1b[2Jb\nc\u202ed\x9bé 日本") == "a\\x1b[2Jb\\nc\\u202ed\\x9bé 日本"
    assert printable("caf\udce9") == "caf\\udce9"
    assert printable("क्\u200dष") == "क्\u200dष"
    assert printable_lines("one\n\ttwo\r") == "one\n\\ttwo\\r"
