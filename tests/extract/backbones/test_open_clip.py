"""open_clip: small architectures registered, saved and loaded as a user would; and the QuickGELU trap."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip import factory, pretrained, timm_model
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.families.open_clip import ABOUT, frame_transform
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import assert_same, features
from tests.extract.backbones.frames import SIZES, frame

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}
PREPARED = ("mean", "std", "interpolation", "resize_mode")
PICTURES = [frame(240, 320, 1), frame(97, 143, 2)]


@pytest.fixture
def architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small architectures, "Tiny" and "Tiny-quickgelu", and the tags that are published for them."""
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    for name, extra in (("Tiny", {}), ("Tiny-quickgelu", {"quick_gelu": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(CONFIG | extra))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    tags = {
        "openai": pretrained._pcfg(url="somewhere/Tiny.pt", quick_gelu=True),
        "mine_b1k": pretrained._pcfg(url="somewhere/mine-b1k.pt"),
        "flat": pretrained._slpcfg(url="somewhere/flat.pt"),
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "Tiny", tags)
    monkeypatch.setitem(pretrained._PRETRAINED, "Tiny-quickgelu", tags)


def tiny(name: str = "Tiny", **options: Any) -> Any:
    torch.manual_seed(0)
    model = open_clip.create_model(name, **options).eval()
    for parameter in model.visual.parameters():
        parameter.data.mul_(2)  # far enough from zero that GELU and QuickGELU differ
    return model


def clip_features(model: Any, pictures: list[np.ndarray], config: PreprocessCfg) -> torch.Tensor:
    transform = image_transform_v2(config, is_train=False)
    with torch.inference_mode():
        return model.encode_image(torch.stack([transform(Image.fromarray(picture)) for picture in pictures]))


@pytest.mark.usefixtures("architectures")
@pytest.mark.parametrize("name", ["Tiny@{}", "Tiny/{}", "Tiny/mine_b1k@{}"])
def test_a_checkpoint_of_a_known_architecture(name: str, tmp_path: Path) -> None:
    model, file = tiny(), tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, file)
    backbone = load_backbone("open_clip:" + name.format(file))
    assert backbone.name == ("open_clip:Tiny/mine_b1k" if "mine" in name else "open_clip:Tiny")
    assert (backbone.weights, backbone.dim, backbone.window) == ("checkpoint.pt", 24, 1)
    config = PreprocessCfg(size=64)
    assert_same(features(backbone, PICTURES), clip_features(model, PICTURES, config))
    assert not any("transformer" in key and "visual" in key for key in backbone.model.state_dict())
    assert len(backbone.model.state_dict()) == len(model.visual.state_dict())


def test_a_folder_with_its_own_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "my-clip"
    folder.mkdir()
    prepared = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear", "resize_mode": "longest",
                "fill_color": 9}  # fmt: skip
    described = {"model_cfg": CONFIG | {"quick_gelu": True}, "preprocess_cfg": prepared}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG, quick_gelu=True).eval()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    backbone = load_backbone(f"open_clip:{folder}")
    assert backbone.name == "open_clip:my-clip"
    assert_same(features(backbone, PICTURES), clip_features(model, PICTURES, PreprocessCfg(size=64, **prepared)))


@pytest.mark.usefixtures("architectures")
def test_the_tag_decides_activation_and_preparation(tmp_path: Path) -> None:
    quick, plain = tiny("Tiny-quickgelu"), tiny("Tiny")
    file = tmp_path / "checkpoint.pt"
    torch.save(plain.state_dict(), file)
    as_openai = features(load_backbone(f"open_clip:Tiny/openai@{file}"), PICTURES)
    as_mine = features(load_backbone(f"open_clip:Tiny/mine_b1k@{file}"), PICTURES)
    assert_same(as_openai, clip_features(quick, PICTURES, PreprocessCfg(size=64)))
    assert_same(as_mine, clip_features(plain, PICTURES, PreprocessCfg(size=64)))
    assert (as_openai - as_mine).abs().max() > 1e-3 * as_mine.abs().max()
    flat = load_backbone(f"open_clip:Tiny/flat@{file}")
    assert [step["op"] for step in flat.transform_json["frame"]] == ["resize"]
    assert flat.transform_json["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.usefixtures("architectures")
def test_a_quickgelu_architecture_refuses_weights_trained_with_gelu(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match=r"trained with GELU.*name the architecture without -quickgelu"):
        load_backbone(f"open_clip:Tiny-quickgelu/mine_b1k@{tmp_path / 'checkpoint.pt'}")


@pytest.mark.usefixtures("architectures")
def test_a_file_as_openai_publishes_it_is_recognised(tmp_path: Path) -> None:
    """TorchScript, half precision, three entries more than the parameters: then it is QuickGELU, whatever is said."""
    model = tiny("Tiny-quickgelu").half().float()

    class Published(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit_scale = torch.nn.Parameter(model.logit_scale.data.clone())
            for name, value in {"input_resolution": 64, "context_length": 8, "vocab_size": 50}.items():
                self.register_buffer(name, torch.tensor(value))
            for name, value in model.state_dict().items():
                holder: torch.nn.Module = self
                *parents, last = name.split(".")
                for parent in parents:
                    if not hasattr(holder, parent):
                        holder.add_module(parent, torch.nn.Module())
                    holder = getattr(holder, parent)
                if last != "logit_scale":
                    holder.register_parameter(last, torch.nn.Parameter(value.half(), requires_grad=False))

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return given

    file = tmp_path / "ViT-tiny.pt"
    torch.jit.save(torch.jit.script(Published()), str(file))
    expected = clip_features(model, PICTURES, PreprocessCfg(size=64))
    for name in ("Tiny", "Tiny-quickgelu", "Tiny/openai"):
        assert_same(features(load_backbone(f"open_clip:{name}@{file}"), PICTURES), expected)
    with pytest.raises(UsageError, match="OpenAI's own, trained with QuickGELU"):
        load_backbone(f"open_clip:Tiny/mine_b1k@{file}")


@pytest.mark.usefixtures("architectures")
def test_an_untagged_file_says_what_it_takes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(tiny().state_dict(), tmp_path / "checkpoint.pt")
    with caplog.at_level(logging.WARNING):
        load_backbone(f"open_clip:Tiny@{tmp_path / 'checkpoint.pt'}")
        assert "checkpoint.pt: published weights of Tiny differ in activation or preparation" in caplog.text
        caplog.clear()
        (tmp_path / "checkpoint.pt").rename(tmp_path / "flat.pt")  # published under this name
        backbone = load_backbone(f"open_clip:Tiny@{tmp_path / 'flat.pt'}")
    assert backbone.transform_json["mean"] == [0.5, 0.5, 0.5]
    assert not caplog.records


def test_siglip_files_without_a_tag_are_prepared_as_all_their_tags_agree() -> None:
    """open_clip itself prepares images for a local file as OpenAI did, whatever the architecture."""
    from supportset.extract.backbones.families.open_clip import _preparation

    assert _preparation("ViT-B-16-SigLIP", "", Path("x"))["resize_mode"] == "squash"


@pytest.mark.usefixtures("architectures")
def test_a_folder_that_contradicts_the_name_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG | {"quick_gelu": True}}))
    torch.save(tiny().state_dict(), folder / "open_clip_pytorch_model.bin")
    assert load_backbone(f"open_clip:Tiny/openai@{folder}").name == "open_clip:Tiny/openai"
    with pytest.raises(UsageError, match="quick_gelu=True, the name open_clip:Tiny/mine_b1k the contrary"):
        load_backbone(f"open_clip:Tiny/mine_b1k@{folder}")
    with pytest.raises(UsageError, match="describes another architecture"):
        load_backbone(f"open_clip:ViT-B-32@{folder}")
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(UsageError, match=r"holds no \.safetensors"):
        load_backbone(f"open_clip:{folder}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("target", [64, (64, 96)])
def test_every_way_of_resizing(size: tuple[int, int], mode: Any, target: Any) -> None:
    config = PreprocessCfg(size=target, resize_mode=mode, mean=(0, 0, 0), std=(1, 1, 1), fill_color=7)
    picture = frame(*size)
    expected = image_transform_v2(config, is_train=False)(Image.fromarray(picture)).permute(1, 2, 0) * 255
    np.testing.assert_array_equal(frame_transform(config)(picture), expected.round().numpy().astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-33/openai", r"no architecture 'ViT-B-33' \(did you mean"),
        ("open_clip:ViT-B-32/laion2b_s34b_b78k", r"neither a pretrained tag.*did you mean laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32", "no weights are named: choose one of openai"),
        ("open_clip:ViT-B-32-quickgelu/laion2b_s34b_b79k", "neither a pretrained tag of ViT-B-32-quickgelu"),
        ("open_clip:", "no architecture ''"),
        ("open_clip:/nowhere/model", "/nowhere/model: no such folder"),
        ("open_clip:ViT-B-32/nowhere/file.pt", "neither a pretrained tag of ViT-B-32 nor a path"),
    ],
)
def test_wrong_names_are_told(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(name)


@pytest.mark.usefixtures("architectures")
def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    state = tiny().state_dict()
    state["visual.proj"] = torch.zeros(64, 32)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"other\.pt: cannot be loaded as the weights of backbone open_clip:Tiny"):
        load_backbone(f"open_clip:Tiny@{tmp_path / 'other.pt'}")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(UsageError, match=r"text\.pt: cannot be loaded"):
        load_backbone(f"open_clip:Tiny@{tmp_path / 'text.pt'}")


@pytest.mark.parametrize("name", ["PE-Core-T-16-384/meta", "PE-Core-B-16/meta", "ViT-B-16-SigLIP2/webli"])
def test_published_architectures_with_towers_of_timm(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tag alone says how images are prepared: as a file under its tag, and as the folder that a hub has.

    The visual towers have their real width and one block, with random weights; the text towers are small.
    """
    arch, _, tag = name.partition("/")
    monkeypatch.setattr(timm_model.timm, "create_model", partial(timm.create_model, depth=1))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    config = factory._MODEL_CONFIGS[arch]
    config = config | {"text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}}
    monkeypatch.setitem(factory._MODEL_CONFIGS, arch, config)
    torch.manual_seed(0)
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(open_clip.create_model(arch).state_dict(), folder / "open_clip_pytorch_model.bin")
    prepared = {key: value for key, value in pretrained.get_pretrained_cfg(arch, tag).items() if key in PREPARED}
    described = {"model_cfg": config, "preprocess_cfg": prepared}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.inference_mode():
        wanted = model.eval().encode_image(torch.stack([preprocess(Image.fromarray(each)) for each in PICTURES]))
    file = folder / "open_clip_pytorch_model.bin"
    for given in (f"open_clip:{folder}", f"open_clip:{name}@{file}", f"open_clip:{arch}@{file}"):
        backbone = load_backbone(given)
        assert backbone.dim == config["embed_dim"] == wanted.shape[1]
        assert_same(features(backbone, PICTURES), wanted)


def test_presets_are_published() -> None:
    published = {f"{arch}/{tag}" for arch, tag in open_clip.list_pretrained()}
    assert set(ABOUT["presets"].values()) <= published
