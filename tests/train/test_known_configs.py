"""Configurations by name: those of the package, and the user's own files, which win."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.store.errors import UsageError
from supportset.train.ablation.grid import load_grid
from supportset.train.config import load_config
from supportset.train.known_configs import CONFIGS, GRIDS, find_config, known


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["demo", "demo.toml", "configs/demo.toml"])
def test_a_known_configuration_is_found_from_any_folder(name: str, elsewhere: Path) -> None:
    (elsewhere / "demo").mkdir()  # what the verb `demo` leaves behind is no configuration
    assert load_config(name, ["seed=3"]).seed == 3
    assert find_config(name).samefile(CONFIGS / "demo.toml")


def test_every_known_configuration_and_grid_loads() -> None:
    assert {load_config(name).name for name in known(CONFIGS)} == set(known(CONFIGS))
    assert {load_grid(name).name for name in known(GRIDS)} == set(known(GRIDS))


def test_a_configuration_takes_from_its_base_what_it_does_not_give(elsewhere: Path) -> None:
    (elsewhere / "mine.toml").write_text('base = "msvd.toml"\nname = "mine"\noptim.batch_size = 7\n')
    mine, msvd, msrvtt = (load_config(name, ["seed=3"]) for name in ("mine.toml", "msvd", "msrvtt"))
    assert mine == msvd.model_copy(update={"name": "mine", "optim": msvd.optim.model_copy(update={"batch_size": 7})})
    assert msvd.video == msrvtt.video
    assert msvd.data != msrvtt.data


@pytest.mark.parametrize(
    ("text", "words"),
    [('base = "a.toml"', "leads back to this file"), ("base = 3", "base = 3: the name of another configuration"),
     ('base = "msvdd.toml"', "did you mean 'msvd'")],
)  # fmt: skip
def test_a_base_that_cannot_be_is_one_line(text: str, words: str, elsewhere: Path) -> None:
    (elsewhere / "a.toml").write_text('base = "b.toml"')
    (elsewhere / "b.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        load_config("a.toml")


@pytest.mark.parametrize("dataset", ["msrvtt", "msvd", "vatex", "activitynet"])
def test_the_datasets_have_a_configuration_for_each_encoder_pair(dataset: str) -> None:
    for suffix, dim in (("", 512), ("-pe-core-b", 1024), ("-videoprism-b", 768)):
        config, text = load_config(dataset + suffix), (CONFIGS / f"{dataset}{suffix}.toml").read_text("utf-8")
        assert (config.data.dataset, config.dim, config.video.init) == (dataset, dim, "identity")
        assert f"#   make extract DATASET={dataset} " in text
        assert f"#   python cli.py train configs/{dataset}{suffix}.toml" in text
        assert config.loss.temperature == (0.01 if suffix == "-videoprism-b" else "tower")


@pytest.mark.parametrize("name", ["objective-demo.toml", "configs/ablations/objective-demo.toml"])
def test_grids_and_their_bases_have_paths_too(name: str) -> None:
    assert load_grid(name).name == "objective-demo"
    assert load_config("configs/ablations/base/planted.toml").name == "planted"


def test_the_users_own_file_wins(elsewhere: Path) -> None:
    text = (CONFIGS / "demo.toml").read_text(encoding="utf-8")
    for name in ("demo.toml", "configs/demo.toml"):
        (elsewhere / name).parent.mkdir(exist_ok=True)
        (elsewhere / name).write_text(text.replace('name = "demo"', 'name = "mine"'))
        assert load_config(name).name == "mine"


def test_a_copied_grid_finds_the_base_of_the_package(elsewhere: Path) -> None:
    for name in ("objective-planted", "objective-demo"):  # base/planted.toml and ../demo.toml
        (elsewhere / "mine.toml").write_text((GRIDS / f"{name}.toml").read_text(encoding="utf-8"))
        assert load_grid("mine.toml").variants
    (elsewhere / "base").mkdir()
    (elsewhere / "base" / "planted.toml").write_text("dim = 'mine'")
    (elsewhere / "mine.toml").write_text((GRIDS / "objective-planted.toml").read_text(encoding="utf-8"))
    with pytest.raises(UsageError, match="mine"):
        load_grid("mine.toml")


@pytest.mark.parametrize("name", ["dmo", "configs/dmo.toml", "./dmo.toml"])
def test_an_unknown_name_is_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match="did you mean 'demo'"):
        find_config(name)
    with pytest.raises(UsageError, match="no such configuration file"):
        find_config(Path("/") / name)
