"""Hostile weights: a file of each form that tries to write a file while it is loaded, given to every loader."""

from __future__ import annotations

import builtins
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.torchscript import read_torchscript
from supportset.extract.text.encoders import load_text_encoder
from supportset.extract.text.encoders.base import TextTower
from supportset.extract.text.encoders.tower_folder import read_tower_folder, save_tower
from supportset.store.errors import UsageError
from supportset.train.model.weights.pretrained import load_config, load_tokenizer, load_weights
from tests.extract.backbones.test_open_clip import architectures  # noqa: F401
from tests.extract.pairs import save_open_clip
from tests.extract.text_models import save_bert, save_t5

pytestmark = pytest.mark.slow


class Call:
    """Unpickles by a call of ``open``, which makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def torch_saved(file: Path, marker: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "meta": Call(marker)}, file)


def legacy_torch_saved(file: Path, marker: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": Call(marker)}}, file, _use_new_zipfile_serialization=False)


def pickled(file: Path, marker: Path) -> None:
    file.write_bytes(pickle.dumps(Call(marker)))


def scripted(file: Path, marker: Path) -> None:
    """TorchScript whose class makes a file when it is restored."""
    path = str(marker)

    class Restored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 2))
            self.path = path

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
            return self.weight, self.path, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
            self.weight, self.path, self.training = state
            self.weight = torch.from_file(self.path, shared=True, size=4).reshape(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    torch.jit.script(Restored()).save(str(file))


FORMS: dict[str, Callable[[Path, Path], None]] = {
    "torch": torch_saved, "legacy": legacy_torch_saved, "pickle": pickled, "torchscript": scripted,
}  # fmt: skip


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a hostile file would make; a question whether to run its code is answered with yes."""
    monkeypatch.setattr(builtins, "input", lambda *_: "yes")
    return tmp_path / "it-ran"


def folder_of(kind: str, folder: Path) -> Path:
    """A model of transformers with its weights as a pickle, to be replaced."""
    if kind == "clip":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes = vision | {"image_size": 32, "patch_size": 16}
        tf.CLIPVisionModelWithProjection(tf.CLIPVisionConfig(**sizes, projection_dim=8)).save_pretrained(folder)
        tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    else:
        (save_bert if kind == "bert" else save_t5)(folder)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.usefixtures("architectures")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", ["open_clip:Tiny@{}", "open_clip:Tiny/openai@{}", "timm:test_vit@{}", "torchvision:squeezenet1_1@{}",
             "efficientnet_lite:0@{}"]
)  # fmt: skip
def test_no_file_of_a_backbone_runs(name: str, form: str, tmp_path: Path, marker: Path) -> None:
    for suffix in (".pt", ".bin"):
        FORMS[form](tmp_path / f"weights{suffix}", marker)
        with pytest.raises(UsageError) as told:
            load_backbone(name.format(tmp_path / f"weights{suffix}"))
        assert "\n" not in str(told.value)
        assert not marker.exists()


@pytest.mark.usefixtures("architectures")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loader", ["hf", "text", "open_clip text", "open_clip folder", "timm folder", "train"])
def test_no_file_in_a_folder_runs(loader: str, form: str, tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "folder"
    load: Callable[[], object]
    if loader == "hf":
        folder, load = folder_of("clip", folder), lambda: load_backbone(f"hf:{folder}")
    elif loader == "text":
        folder, load = folder_of("bert", folder), lambda: load_text_encoder(str(folder))
    elif loader == "train":
        folder_of("t5", folder)
        source, config = str(folder), tf.AutoConfig.from_pretrained(folder)
        load = lambda: load_weights(tf.T5ForConditionalGeneration, source, source, "text.name", config)  # noqa: E731
    else:
        folder.mkdir()
        if loader == "open_clip folder":
            config = json.loads((tmp_path / "Tiny.json").read_text())
            (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
            load = lambda: load_backbone(f"open_clip:{folder}")  # noqa: E731
        elif loader == "timm folder":
            (folder / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
            load = lambda: load_backbone(f"timm:{folder}")  # noqa: E731
        else:
            load = lambda: load_text_encoder(f"open_clip:Tiny@{folder}")  # noqa: E731
    FORMS[form](folder / ("open_clip_pytorch_model.bin" if "open" in loader else "pytorch_model.bin"), marker)
    with pytest.raises(UsageError) as told:
        load()
    assert "\n" not in str(told.value)
    assert "trust_remote_code" not in str(told.value)
    assert not marker.exists()


@pytest.mark.parametrize("known", [True, False], ids=["known type", "type of its own"])
@pytest.mark.parametrize("loader", ["hf", "text", "train"])
def test_code_beside_a_model_never_runs(loader: str, known: bool, tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "folder"
    if loader == "hf":
        folder_of("clip", folder)
        torch.save(tf.CLIPVisionModelWithProjection(tf.AutoConfig.from_pretrained(folder)).state_dict(),
                   folder / "pytorch_model.bin")  # fmt: skip
    else:
        (save_bert if loader == "text" else save_t5)(folder)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass It: pass\n")
    names = ["Config", "Model", "ImageProcessor", "VideoProcessor", "ModelForTextEncoding"]
    maps = {f"Auto{name}": "evil.It" for name in names} | {"AutoTokenizer": ["evil.It", "evil.It"]}
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        content["auto_map"] = maps
        if not known:
            content |= {"model_type": "evil", "tokenizer_class": "It", "image_processor_type": "It"}
        (folder / name).write_text(json.dumps(content))

    def load() -> None:
        if loader == "hf":
            load_backbone(f"hf:{folder}")
        elif loader == "text":
            load_text_encoder(str(folder))
        else:
            load_tokenizer(str(folder), str(folder), "text.name")
            load_config(str(folder), str(folder), "text.name")

    failed = ""
    try:
        load()
    except UsageError as error:  # the library's own classes serve, or one line says why they do not
        failed = str(error)
    assert failed or known
    assert "\n" not in failed
    assert "trust_remote_code" not in failed
    assert not marker.exists()


@pytest.mark.parametrize("place", ["named", "in a run"])
def test_a_configuration_of_open_clip_cannot_trust_code(place: str, tmp_path: Path, marker: Path) -> None:
    """What it gives as ``tokenizer_kwargs`` reaches the loader of transformers."""
    folder = tmp_path / "folder"
    save_open_clip(folder)
    tower = load_text_encoder(f"open_clip:{folder}")
    assert isinstance(tower, TextTower)
    if place == "in a run":
        save_tower(tower, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    trust = {"hf_tokenizer_name": "its/own", "tokenizer_kwargs": {"trust_remote_code": True}}
    config["model_cfg"]["text_cfg"] |= trust
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass It: pass\n")
    maps = {"AutoTokenizer": ["evil.It", "evil.It"], "AutoConfig": "evil.It"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": maps, "tokenizer_class": "It"}))
    (folder / "config.json").write_text(json.dumps({"auto_map": maps, "model_type": "evil"}))
    if place == "in a run":
        with pytest.raises(ValueError, match="never run"):
            read_tower_folder(folder)
    else:
        with pytest.raises(UsageError, match="needs Python code beside the model, which is never run") as told:
            load_text_encoder(f"open_clip:{folder}")
        assert "\n" not in str(told.value)
    assert not marker.exists()


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained"])
def test_a_timm_folder_cannot_name_other_files(key: str, tmp_path: Path, marker: Path) -> None:
    pickled(tmp_path / "other.pth", marker)
    folder = tmp_path / "folder"
    folder.mkdir()
    arguments = {key: str(tmp_path / "other.pth")}
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "model_args": arguments}))
    torch.save({}, folder / "model.pth")
    with pytest.raises(UsageError, match=f"its config.json sets {key}"):
        load_backbone(f"timm:{folder}")
    assert not marker.exists()


def test_torchscript_is_read_tensor_by_tensor(tmp_path: Path, marker: Path) -> None:
    scripted(tmp_path / "model.pt", marker)
    read_torchscript(tmp_path / "model.pt")
    assert not marker.exists()
    inner = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).half()
    torch.jit.script(inner).save(str(tmp_path / "plain.pt"))
    state = read_torchscript(tmp_path / "plain.pt")
    wanted = inner.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(print, 2), "which is not run"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.", "os.system, which is not run"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.", ""),
        (b"\x80\x02(", "cannot be read"),
    ],
)
def test_torchscript_with_other_globals_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/data.pkl", content)
    if says:
        with pytest.raises(ValueError, match=says):
            read_torchscript(tmp_path / "model.pt")
    else:
        assert read_torchscript(tmp_path / "model.pt") == {}


@pytest.mark.parametrize("form", FORMS)
def test_the_files_are_hostile(form: str, tmp_path: Path, marker: Path) -> None:
    FORMS[form](tmp_path / "weights.pt", marker)
    if form == "pickle":
        pickle.loads((tmp_path / "weights.pt").read_bytes())
    else:
        torch.load(tmp_path / "weights.pt", weights_only=False)
    assert marker.exists(), "else the other tests show nothing"


@pytest.mark.usefixtures("architectures")
@pytest.mark.parametrize("name", ["open_clip:Tiny@{}", "timm:test_vit@{}"])
def test_pickled_arrays_do_not_run(name: str, tmp_path: Path, marker: Path) -> None:
    np.savez(tmp_path / "weights.npz", np.array([Call(marker)], dtype=object))
    with pytest.raises(UsageError) as told:
        load_backbone(name.format(tmp_path / "weights.npz"))
    assert "\n" not in str(told.value)
    assert not marker.exists()
