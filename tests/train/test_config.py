"""Configurations: every mistake is one line that names the key and the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.store.errors import UsageError
from supportset.train import config as config_module
from supportset.train.config import Config, load_config, parse_config
from supportset.train.run_folder import to_toml

SMALL = """
name = "x"
[data]
dataset = "small"
features = ["small/planted"]
protocol = "planted"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.toml"
    path.write_text(SMALL)
    return path


def test_defaults_are_filled_in(path: Path) -> None:
    config = load_config(path)
    assert config.support.captioning == "cross"
    assert config.loss.warmup == "infonce"  # safe by default
    assert config.data.features == ["small/planted"]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=3", "seed", 3),
        ("optim.learning_rate=1e-4", "optim.learning_rate", 1e-4),
        ("optim.learning_rate = 2", "optim.learning_rate", 2.0),
        ("support.captioning=none", "support.captioning", "none"),
        ('support.captioning="full"', "support.captioning", "full"),
        ('data.features=["a/b", "a/c"]', "data.features", ["a/b", "a/c"]),
        ("data.features=a/b", "data.features", ["a/b"]),
        ("text.finetune=false", "text.finetune", False),
        ("data.dataset=mine", "data.dataset", "mine"),
        ("name=a b=c", "name", "a b=c"),
    ],
)
def test_overrides_are_toml_or_plain_words(path: Path, override: str, key: str, value: object) -> None:
    config: object = load_config(path, ["optim.epochs=1", override])
    assert config.optim.epochs == 1  # type: ignore[attr-defined]
    for part in key.split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.learning_rat=1", "unknown key 'optim.learning_rat' (did you mean 'learning_rate'?)"),
        ("optin.epochs=1", "unknown key 'optin' (did you mean 'optim'?)"),
        ("video.zzz=1", "unknown key 'video.zzz' (known: aggregation, width,"),
        ("optim.epochs=ten", "optim.epochs = 'ten'"),
        ("optim.epochs=1.5", "optim.epochs = 1.5"),
        ("optim.epochs=-1", "optim.epochs = -1: input should be greater than or equal to 0"),
        ("optim.epochs=true", "optim.epochs = True"),
        ("text.finetune=1", "text.finetune = 1"),
        ("support.captioning=crosss", "support.captioning = 'crosss': unknown; known: cross, full"),
        ("data.features=3", "data.features = 3"),
        ("data.features=[]", "data.features = []"),
        ("data.holdout=1.0", "data.holdout = 1.0: input should be less than 1"),
        ("video.heads=3", "video.width 1024 is not a multiple of video.heads 3"),
        ("seed=-1", "seed = -1: input should be greater than or equal to 0"),
        ("seed=9223372036854775808", "seed = 9223372036854775808: input should be less than"),
        ("loss.warmup_epochs=inf", "loss.warmup_epochs = inf: input should be a finite number"),
        ("loss.caption_weight=nan", "loss.caption_weight = nan: input should be a finite number"),
        ("name=", "name = ''"),
        ("name=../../x", "name = '../../x' names a folder: use letters"),
        ("name=a/b", "name = 'a/b' names a folder"),
        ("name=.hidden", "name = '.hidden' names a folder"),
        ('name="a\\u001b[31m"', "name = 'a\\x1b[31m' names a folder"),
        ("dim=" + "[" * 5000, "override of dim: the value is nested too deeply"),
        ("seed", "override 'seed' is not of the form section.key=value"),
        ("=3", "override '=3' is not of the form section.key=value"),
        ("name.x=3", "name is a value, not a section"),
        ("data=3", "data = 3"),
    ],
)
def test_a_mistake_is_one_line(path: Path, override: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        load_config(path, [override])
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_the_file_is_named_and_so_is_what_is_missing(path: Path) -> None:
    path.write_text('name = "x"\n[data]\ndataset = "small"\nfeatures = ["a"]\n')
    with pytest.raises(UsageError) as error:
        load_config(path)
    assert str(error.value) == f"{path}: key 'data.protocol' is missing"
    path.write_text(SMALL.replace("protocol", "[protocol"))
    with pytest.raises(UsageError, match=r"x\.toml: not readable as TOML"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"x\.toml: not readable as TOML"):
        load_config(path)
    with pytest.raises(UsageError, match=r"no such configuration file; known by name: .*demo, "):
        load_config(path.with_name("absent.toml"))
    with pytest.raises(UsageError, match=r"no such configuration file"):
        load_config(path.parent)


def test_a_file_nested_too_deeply_is_one_line(path: Path) -> None:
    path.write_text("x = " + "[" * 100_000)
    with pytest.raises(UsageError, match=r"x\.toml: not readable as TOML: nested too deeply"):
        load_config(path)


def test_old_keys_load_and_tell_the_new_name_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_module._hinted.clear()
    path.write_text(SMALL + "max_words = 7\n[loss]\nweight = 3.0\n[optim]\naccumulate = 1\n")
    config = load_config(path, ["optim.clip_norm=0.7", "loss.weight=4.0"])
    assert (config.data.max_tokens, config.loss.caption_weight, config.optim.max_grad_norm) == (7, 4.0, 0.7)
    told = capsys.readouterr()
    assert told.out == ""
    assert sorted(told.err.splitlines()) == sorted(
        [
            f"{path}: data.max_words is now called data.max_tokens; the old name still works",
            f"{path}: loss.weight is now called loss.caption_weight; the old name still works",
            f"{path}: optim.accumulate is now called optim.micro_batches; the old name still works",
            "command line: optim.clip_norm is now called optim.max_grad_norm; the old name still works",
        ]
    )
    load_config(path)
    assert capsys.readouterr().err == ""
    path.write_text(SMALL + "max_words = 7\nmax_tokens = 8\n")
    with pytest.raises(UsageError, match=r"data\.max_words is the old name of data\.max_tokens: give one of them"):
        load_config(path)


def test_several_mistakes_are_all_named(path: Path) -> None:
    with pytest.raises(UsageError) as error:
        load_config(path, ["optim.epochs=-1", "dim=wide"])
    assert "optim.epochs" in str(error.value)
    assert "dim = 'wide'" in str(error.value)


CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path for path in CONFIGS.rglob("*.toml") if path.parent != CONFIGS / "ablations")  # those are grids


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid_and_reads_back_to_itself(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    (tmp_path / "again.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(tmp_path / "again.toml") == config


def test_a_configuration_does_not_change(path: Path) -> None:
    config = load_config(path)
    with pytest.raises(Exception, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    assert isinstance(parse_config(config.model_dump(), "test"), Config)
