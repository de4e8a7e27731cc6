"""Records of a study: packed into one file, and still valid when the configuration gets new keys."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from supportset.store.errors import SupportsetError
from supportset.train.ablation.grid import load_grid
from supportset.train.ablation.markdown import markdown
from supportset.train.ablation.results import PACKED, StudyFolder, config_hash, read_ranks, recorded_ranks, stamped
from supportset.train.ablation.study import read_study
from supportset.train.ablation.table import tabulate
from tests.train.small_store import config

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "docs" / "results"


@pytest.mark.parametrize(
    "study",
    ["objective-demo", "objective-msrvtt-subset-words-infonce", "start-demo", "start-demo-few", "start-demo-short"],
)
def test_a_committed_study_makes_its_table_again(study: str) -> None:
    runs = read_study(load_grid(ROOT / "configs" / "ablations" / f"{study}.toml"), RESULTS / study)
    assert runs.complete
    assert markdown(tabulate(runs)) == (RESULTS / study / "table.md").read_text()


def test_packing_keeps_every_record_and_takes_in_later_ones(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    records = {name: stamped({"of": name}) for name in ("runs/a.json", "trials/b.json", "items/c.json")}
    for name, record in records.items():
        folder.write(name, record)
    folder.pack()
    assert [path.name for path in tmp_path.iterdir()] == [PACKED]
    before = (tmp_path / PACKED).read_bytes()
    folder.pack()
    for name, record in records.items():
        folder.write(name, record)
    folder.pack()
    assert (tmp_path / PACKED).read_bytes() == before
    again = StudyFolder(tmp_path)
    assert {name: again.read(name) for name in records} == records
    assert again.read("runs/absent.json") is None
    again.write("runs/a.json", stamped({"of": "a later run"}))
    assert again.read("runs/a.json") == stamped({"of": "a later run"})
    again.pack()
    assert StudyFolder(tmp_path).read("runs/a.json") == stamped({"of": "a later run"})
    for damage in (before[:-9], b"", before[:60] + b"?" + before[61:]):
        (tmp_path / PACKED).write_bytes(damage)
        with pytest.raises(SupportsetError, match=r"runs\.jsonl\.xz: cannot be read"):
            StudyFolder(tmp_path).read("runs/a.json")


def test_ranks_come_back_also_from_old_records() -> None:
    ranks = np.array([1.0, np.inf, 70_000.0])
    assert read_ranks(json.loads(json.dumps(recorded_ranks(ranks))), "x").tolist() == ranks.tolist()
    old = base64.b64encode(zlib.compress(np.array([1, 0, 70_000], "<u4").tobytes())).decode()
    assert read_ranks(old, "x").tolist() == ranks.tolist()
    with pytest.raises(SupportsetError, match="x: damaged numbers"):
        read_ranks(old[:-8], "x")


def test_what_decides_the_numbers_changes_the_hash() -> None:
    plain = config_hash(config(support={"captioning": "cross"}))
    assert config_hash(config(support={"captioning": "cross", "top_k": None, "video_gradient": True})) == plain
    assert config_hash(config(support={"captioning": "cross", "top_k": 8})) != plain
    assert config_hash(config(support={"captioning": "cross", "text_gradient": False})) != plain
    assert config_hash(config(support={"captioning": "cross", "video_gradient": False})) != plain
    assert config_hash(config(support={"captioning": "cross"}, optim={"log_every": 7})) == plain
