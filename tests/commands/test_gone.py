"""Videos that are gone, on the command line: extract tells it, the others leave them out, prune removes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from supportset.commands.main import cli
from supportset.store.format.dataset import open_dataset
from supportset.store.read.catalog import list_feature_sets
from tests.extract.fakes import MeanColour

pytestmark = pytest.mark.slow


def ask(*words: object, code: int = 0, answer: str | None = None) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], input=answer)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("supportset.extract.backbones.load_backbone", lambda name: MeanColour())
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for seed in range(14):
        pixels = np.random.default_rng(seed).integers(0, 255, (20 + seed, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed:02}.png")
    return folder


def extract(*more: object, code: int = 0) -> Result:
    return ask("extract", "folder", "--data", "mine", "--device", "cpu", "--workers", 1, *more, code=code)


def stored() -> set[str]:
    (info,) = list_feature_sets("features", "mine")
    return set(info.open().clip_ids)


def test_extract_lists_them_and_prune_asks_before_it_removes_them(videos: Path) -> None:
    assert json.loads(extract("--json").stdout)["gone"] == []
    for seed in range(2):
        (videos / f"{seed:02}.png").unlink()
    result = extract("--json")
    assert json.loads(result.stdout)["gone"] == ["00", "01"]
    assert json.loads(result.stdout)["status"] == {"ok": 12}
    assert "the videos of 2 clips with features are gone" in result.stderr
    assert "`store prune mine`" in result.stderr
    assert "\n  00\n  01\n" in result.stderr

    everything = stored()
    assert "2 clips are gone" in ask("store", "prune", "mine", "--dry-run").stdout
    planned = json.loads(ask("store", "prune", "mine", "--dry-run", "--json").stdout)
    assert [each["clips"] for each in planned["feature_sets"]] == [["00", "01"]]
    ask("store", "prune", "mine", answer="n\n", code=1)
    assert stored() == everything
    assert "removed 2 clips" in ask("store", "prune", "mine", answer="y\n").stdout
    assert stored() == everything - {"00", "01"}
    assert "no features of clips whose videos are gone" in ask("store", "prune", "mine", "--yes").stdout
    done = json.loads(ask("store", "prune", "mine/fake", "--yes", "--json").stdout)
    assert done == {"dataset": "mine", "dry_run": False, "feature_sets": []}
    ask("store", "verify")
    assert json.loads(extract("--json").stdout)["gone"] == []
    assert open_dataset("features", "mine").gone == frozenset()


def test_many_at_once_are_refused_with_one_line(videos: Path) -> None:
    extract()
    for seed in range(11):
        (videos / f"{seed:02}.png").unlink()
    result = extract(code=2)
    (line,) = [line for line in result.stderr.splitlines() if "--gone" in line]
    assert "11 of the 14 clips with features have no video here any more" in line
    assert open_dataset("features", "mine").gone == frozenset()
    assert len(json.loads(extract("--gone", "mark", "--json").stdout)["gone"]) == 11
    assert json.loads(extract("--gone", "keep", "--json").stdout)["gone"] == []


def test_damage_that_prune_cannot_pass_is_told(videos: Path) -> None:
    extract()
    (videos / "00.png").unlink()
    extract()
    (info,) = list_feature_sets("features", "mine")
    next(Path(str(info.path)).glob("shards/*.zarr/values/c.0.0")).write_bytes(b"")
    result = ask("store", "prune", "mine", "--yes", code=1)
    assert "damaged: " in result.stderr
    assert "1 damaged shards are left as they are" in result.stderr


def test_an_unknown_dataset(videos: Path) -> None:
    extract()
    assert "no dataset 'other'" in ask("store", "prune", "other", "--yes", code=2).stderr
