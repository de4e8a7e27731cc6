"""``store verify --against-videos``, as a person types it, with a small real backbone from a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner, Result

from supportset.commands.main import cli
from supportset.store.read.feature_set import FeatureSet
from tests.extract.films import write_video

NETWORK = "test_vit.r160_in1k"


def run(*words: object, code: int = 0) -> Result:
    """Run a verb; anything but the expected exit, and any traceback, fails."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, weights in a file, and features extracted by the command."""
    place = tmp_path_factory.mktemp("place")
    (place / "mine").mkdir()
    for i in range(4):
        write_video(place / "mine" / f"{i}.mp4", 30 + 10 * i)
    torch.manual_seed(0)
    torch.save(timm.create_model(NETWORK, pretrained=False).state_dict(), place / "weights.pth")
    run(
        "extract", "folder", "--data", place / "mine", "--store", place / "features", "--fps", "2", "--device", "cpu",
        "--backbone", f"timm:{NETWORK}@{place / 'weights.pth'}", "--workers", "1",
    )  # fmt: skip
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil; the card still names the weights where they were."""
    return Path(shutil.copytree(made, tmp_path / "copy", copy_function=shutil.copy2))


def verify(place: Path, *words: object, code: int = 0) -> Result:
    return run(
        "store", "verify", "mine", "--store", place / "features", "--data", place / "mine", "--device", "cpu", *words,
        "--against-videos", "3", code=code,
    )  # fmt: skip


def test_features_agree_with_their_videos(place: Path) -> None:
    result = verify(place)
    assert "no problems" in result.stdout
    assert "3 clips extracted again (seed " in result.stdout
    assert "3 agrees; relative difference at worst " in result.stdout
    told = json.loads(verify(place, "--json", "--seed", "7").stdout)
    again = told["sets"][0]["against_videos"]
    assert (told["problems"], again["compared"], again["seed"], again["outcomes"]) == (0, 3, 7, {"agrees": 3})
    assert 0 < again["worst"] < 5.9e-4
    assert again["backbone"].endswith("weights.pth")


def test_videos_that_changed_are_exit_code_1(place: Path) -> None:
    for i in range(4):
        write_video(place / "mine" / f"{i}.mp4", 31 + 10 * i)
    result = verify(place, code=1)
    assert result.stderr.count("the file was changed: `extract` extracts it again") == 3
    assert result.stderr.splitlines()[-1].endswith("3 problems found: see above")


def test_weights_that_moved_or_changed(place: Path, made: Path) -> None:
    (made / "weights.pth").rename(made / "elsewhere.pth")
    try:
        assert "--backbone NAME@PATH" in verify(place, code=2).stderr
        assert "3 agrees" in verify(place, "--backbone", f"timm:{NETWORK}@{place / 'weights.pth'}").stdout
    finally:
        (made / "elsewhere.pth").rename(made / "weights.pth")
    state = torch.load(place / "weights.pth", weights_only=True)
    state["norm.weight"] += 1
    torch.save(state, place / "other.pth")
    (line,) = verify(place, "--backbone", f"timm:{NETWORK}@{place / 'other.pth'}", code=2).stderr.splitlines()
    assert "was made with weights that hash to xxh3-128:" in line


def test_damaged_clips_are_not_compared(place: Path) -> None:
    (path,) = (place / "features" / "mine" / "features").iterdir()
    file = next(path.glob("shards/*.zarr/values/c.0.0"))
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    told = json.loads(verify(place, "--json", code=1).stdout)
    (damaged,) = told["sets"][0]["damaged_clips"]
    again = told["sets"][0]["against_videos"]
    assert again["outcomes"] == {"agrees": 3}
    assert damaged not in {clip["clip_id"] for clip in again["clips"]}
    assert set(FeatureSet.open(path).clip_ids) == {"0", "1", "2", "3"}


def test_wrong_use(place: Path) -> None:
    words = ("store", "verify", "--store", place / "features", "--against-videos", "3")
    assert "is for one feature set" in run(*words, code=2).stderr
    assert "holds no file of the 4 clips" in run(*words, "mine", "--videos", place / "features", code=2).stderr
    assert "0" in run(*words[:-1], "0", "mine", code=2).stderr
