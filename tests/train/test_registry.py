"""A variant, a loss and an aggregation are added by one file each, from inside and from outside the package."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.store.errors import UsageError
from supportset.train import registry
from supportset.train.config import without_effect
from supportset.train.registry import AGGREGATION, CAPTIONING, CONTRASTIVE
from supportset.train.run_folder import to_toml
from tests.train.small_models import small_batch, small_config, small_model
from tests.train.small_store import config, plant

FILES = {  # as CONTRIBUTING.md shows them
    "captioning/uniform.py": """
import torch
from supportset.train.model.support import Captioning, Support, log_softmax

def support(logits, is_positive, candidates):
    members = candidates & ~is_positive
    return Support(log_softmax(torch.zeros_like(logits), members), members)

CAPTIONING = Captioning("captioning from the other clips, all with one weight", support, own=False)
""",
    "contrastive/logistic.py": """
import torch.nn.functional as F
from supportset.train.model.losses import ContrastiveLoss

def contrast(positive, candidates, is_negative, config):
    margins = (candidates - positive) / config.temperature
    return F.softplus(margins).masked_fill(~is_negative, 0.0).sum(1)

LOSS = ContrastiveLoss("logistic", contrast, keys=("temperature",))
""",
    "aggregation/first.py": """
from torch import nn

class Aggregation(nn.Module):
    added_positions = 0

    def __init__(self, config):
        super().__init__()

    def forward(self, values, mask):
        return values[:, 0], values, mask
""",
}
NEW = {
    "support": {"captioning": "uniform"},
    "loss": {"contrastive": "logistic", "temperature": 0.2},
    "video": {"aggregation": "first"},
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    registry._points.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that registers one of each."""
    folder = tmp_path / "site"
    info = folder / "trial_method-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trial-method\nVersion: 1.0\n")
    points = []
    for registry_of, name in ((CAPTIONING, "uniform"), (CONTRASTIVE, "logistic"), (AGGREGATION, "first")):
        place = registry_of.package.rpartition(".")[2]
        (folder / f"trial_{name}.py").write_text(FILES[f"{place}/{name}.py"])
        points.append(f"[{registry_of.group}]\n{name} = trial_{name}:{registry_of.attribute}\n")
    (info / "entry_points.txt").write_text("".join(points))
    monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("package")
def test_of_another_package_through_the_command_line(tmp_path: Path) -> None:
    store = plant(tmp_path / "features", clips_per_concept=2).root
    setting = tmp_path / "new.toml"
    setting.write_text(to_toml(config(optim={"epochs": 1}, **NEW)))
    asked = ["train", str(setting), "--store", str(store), "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    card = (tmp_path / "run" / "README.md").read_text()
    assert "(logistic) and captioning from the other clips, all with one weight, weight 0.5" in card
    asked = ["report", str(tmp_path / "run"), "--store", str(store), "--support", "--device", "cpu"]
    assert "(trained: uniform)" in CliRunner().invoke(cli, asked, catch_exceptions=False).output


@pytest.mark.parametrize("name", FILES)
def test_one_file_is_enough(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, file = name.partition("/")
    (tmp_path / file).write_text(FILES[name])
    ours = importlib.import_module(f"supportset.train.model.{folder}")
    monkeypatch.setattr(ours.__spec__, "submodule_search_locations", [*ours.__path__, str(tmp_path)])
    monkeypatch.setattr(ours, "__path__", ours.__spec__.submodule_search_locations)
    key = {"captioning": "support", "contrastive": "loss", "aggregation": "video"}[folder]
    model = small_model(small_config(**{key: NEW[key]}))
    assert model(small_batch(model)).total.isfinite()


def test_the_files_are_those_of_the_page_for_contributors() -> None:
    page = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    shown = dict(re.findall(r"```python\n# train/model/(\S+)\n(.*?)```", text, re.DOTALL))
    if not shown:
        pytest.skip("CONTRIBUTING.md does not show them")
    assert {name: code.strip() for name, code in shown.items()} == {name: code.strip() for name, code in FILES.items()}


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"support": {"captioning": "crosss"}},
            "support.captioning = 'crosss': unknown; known: cross, full, hybrid, identity, none",
        ),
        ({"loss": {"contrastive": "x"}}, "loss.contrastive = 'x': unknown; known: hinge, infonce"),
        ({"loss": {"warmup": "x"}}, "loss.warmup = 'x': unknown; known: hinge, infonce, none, summed"),
        ({"video": {"aggregation": "x"}}, "video.aggregation = 'x': unknown; known: attention, max, mean, transformer"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(sections: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as error:
        small_config(**sections)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_keys_without_effect_are_read_from_the_registry() -> None:
    hinge = {"loss.margin", "loss.negatives", "loss.warmup", "loss.warmup_epochs"}
    assert without_effect(small_config()) == set()
    assert without_effect(small_config(loss={"contrastive": "infonce"})) == hinge
    assert without_effect(small_config(support={"captioning": "identity"})) == {"support.temperature"}
    none = {"support.temperature", "loss.caption_weight"}
    assert without_effect(small_config(support={"captioning": "none"})) == none
