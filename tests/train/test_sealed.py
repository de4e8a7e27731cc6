"""Records of a run: a changed byte is told, or changes nothing that is read; files of earlier versions are read."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path

import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.train.run_folder import RunFolder
from supportset.train.sealed import sealed
from tests.train.small_store import config

RECORD = {"dataset": "d", "holdout": ["a", "b"], "leakage": {"test": 0}, "note": "é\n", "share": 0.1}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create(config(), RECORD)
    return folder


@pytest.mark.parametrize("name", ["config.toml", "data.json"])
def test_damage_is_told_or_changes_nothing(run: RunFolder, name: str) -> None:
    def read() -> object:  # a hash under a damaged name is one key more
        return run.load_config() if name == "config.toml" else {key: run.data_record()[key] for key in RECORD}

    file, rng, told = run.path / name, random.Random(0), 0
    whole, right = file.read_bytes(), read()
    for trial in range(300):
        at = rng.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ 1 << trial % 8]) + whole[at + 1 :]
        file.write_bytes(flipped if trial % 3 else whole[:at])
        with contextlib.suppress(SupportsetError):
            told += 1
            assert read() == right
            told -= 1
    assert told > 250


def test_a_change_on_purpose_and_records_of_earlier_versions(run: RunFolder) -> None:
    run.config.write_text(run.config.read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(SupportsetError, match="remove its first line"):
        run.load_config()
    run.config.write_text(run.config.read_text().partition("\n")[2])
    assert run.load_config().seed == 1
    (run.path / "data.json").write_text(json.dumps(RECORD))
    assert run.data_record() == RECORD
    run.write_json("data.json", sealed(RECORD) | {"dataset": "other"})
    with pytest.raises(SupportsetError, match="remove its key 'hash'"):
        run.data_record()


def test_a_hash_is_that_of_what_is_read_back() -> None:
    tree = {"pair": (1, 2), "counts": {2: "b", 10: "a"}}
    assert json.loads(json.dumps(sealed(tree))) == sealed(json.loads(json.dumps(tree)))


def test_a_run_folder_that_a_library_cannot_write_to_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        RunFolder(tmp_path / os.fsdecode(b"r\xff")).check_usable(config(), resume=False)


@pytest.mark.parametrize("content", ["{}", '{"epoch": 3, "step": 12, "select_by": "last"}'])
def test_a_record_of_the_best_epoch_that_lacks_a_key_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(SupportsetError, match=r"best\.json: has no '(epoch|validation)', it is damaged"):
        RunFolder(tmp_path).read_best()
