"""Models of transformers: small random ones, saved with their processors, loaded by folder as a user would."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.families.hf import read_processor
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import assert_same, features
from tests.extract.backbones.frames import SIZES, frame, video

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SMALL | {"image_size": 64, "patch_size": 16}
TEXT = SMALL | {"vocab_size": 40, "max_position_embeddings": 12}
CROPPED = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
SQUARE = {"size": {"height": 64, "width": 64}}


def pil(name: str, **options: Any) -> Any:
    """A processor that computes with PIL: a class of its own in transformers 5, the plain one before."""
    return getattr(tf, f"{name}Pil", None) or getattr(tf, name)


def tensor(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


# name: (model, processor class, its options, the library's own features, width)
Case = tuple[Callable[[], Any], str, dict[str, Any], Callable[[Any, torch.Tensor], torch.Tensor], int]
IMAGE_MODELS: dict[str, Case] = {
    "clip": (
        lambda: tf.CLIPModel(tf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=20)),
        "CLIPImageProcessor", CROPPED, lambda model, pixels: tensor(model.get_image_features(pixel_values=pixels)), 20,
    ),
    "clip_vision": (
        lambda: tf.CLIPVisionModelWithProjection(tf.CLIPVisionConfig(**VISION, projection_dim=20)),
        "CLIPImageProcessor", CROPPED, lambda model, pixels: model(pixel_values=pixels).image_embeds, 20,
    ),
    "siglip": (
        lambda: tf.SiglipModel(tf.SiglipConfig(text_config=TEXT, vision_config=VISION)),
        "SiglipImageProcessor", SQUARE, lambda model, pixels: tensor(model.get_image_features(pixel_values=pixels)), 32,
    ),
    "siglip_vision": (
        lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**VISION)),
        "SiglipImageProcessor", SQUARE, lambda model, pixels: model(pixel_values=pixels).pooler_output, 32,
    ),
    "dinov2": (
        lambda: tf.Dinov2Model(tf.Dinov2Config(**VISION)),
        "BitImageProcessor", CROPPED, lambda model, pixels: model(pixel_values=pixels).pooler_output, 32,
    ),
    "dinov2_with_registers": (
        lambda: tf.Dinov2WithRegistersModel(tf.Dinov2WithRegistersConfig(**VISION)),
        "BitImageProcessor", CROPPED, lambda model, pixels: model(pixel_values=pixels).pooler_output, 32,
    ),
    "vit": (
        lambda: tf.ViTModel(tf.ViTConfig(**VISION)),
        "ViTImageProcessor", SQUARE, lambda model, pixels: model(pixel_values=pixels).last_hidden_state[:, 0], 32,
    ),
}  # fmt: skip
VIDEO_MODELS: dict[str, Case] = {
    "videomae": (
        lambda: tf.VideoMAEModel(tf.VideoMAEConfig(**VISION, num_frames=4)),
        "VideoMAEImageProcessor", CROPPED,
        lambda model, pixels: model(pixel_values=pixels).last_hidden_state.mean(1), 32,
    ),
    "xclip": (
        lambda: tf.XCLIPModel(
            tf.XCLIPConfig(text_config=TEXT, projection_dim=20, vision_config=VISION | {
                "num_frames": 4, "mit_hidden_size": 20, "mit_intermediate_size": 32, "mit_num_attention_heads": 2,
            })
        ),
        "VideoMAEImageProcessor", CROPPED,
        lambda model, pixels: tensor(model.get_video_features(pixel_values=pixels)), 20,
    ),
}  # fmt: skip


def saved(case: Case, folder: Path) -> tuple[Any, Any]:
    """Build, spread out (so that no parameter is near zero), save model and processor; return both."""
    build, processor_name, options, _, _ = case
    torch.manual_seed(0)
    model = build().eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor = pil(processor_name)(**options)
    processor.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_image_models(name: str, tmp_path: Path) -> None:
    case = IMAGE_MODELS[name]
    folder = tmp_path / f"my-{name}"
    model, processor = saved(case, folder)
    backbone = load_backbone(f"hf:{folder}")
    pictures = [frame(240, 320, 1), frame(181, 97, 2)]
    pixels = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = case[3](model, pixels)
    assert (backbone.name, backbone.dim, backbone.window) == (f"hf:my-{name}", case[4], 1)
    assert backbone.weights == f"my-{name}"
    assert_same(features(backbone, pictures), expected)
    assert not any("text" in key or key in ("logit_scale", "logit_bias") for key in backbone.model.state_dict())


@pytest.mark.parametrize("name", VIDEO_MODELS)
def test_video_models(name: str, tmp_path: Path) -> None:
    case = VIDEO_MODELS[name]
    model, processor = saved(case, tmp_path)
    backbone = load_backbone(f"hf:some/{name}@{tmp_path}")
    clips = [video(4, 90, 120, 1), video(4, 130, 97, 2)]
    pixels = torch.cat([processor(list(clip), return_tensors="pt")["pixel_values"] for clip in clips])
    with torch.inference_mode():
        expected = case[3](model, pixels)
    assert (backbone.name, backbone.dim, backbone.window) == (f"hf:some/{name}", case[4], 4)
    assert_same(features(backbone, clips), expected)
    assert not any("text" in key or "prompts" in key or key == "logit_scale" for key in backbone.model.state_dict())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("CLIPImageProcessor", CROPPED), ("SiglipImageProcessor", SQUARE), ("BitImageProcessor", CROPPED)],
)
def test_frames_are_those_of_the_pil_processor_and_near_those_of_torchvision(
    size: tuple[int, int], kind: str, options: dict[str, Any]
) -> None:
    """Equal to the PIL processor; a grey level here and there from the torchvision one of transformers 5."""
    raw = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    picture = frame(*size)
    reference = pil(kind)(**options)
    ours = read_processor("hf:x", reference)[0](picture).astype(int)
    expected = reference(Image.fromarray(picture), **raw)["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(ours, expected)
    if not hasattr(tf, f"{kind}Pil"):
        return  # before transformers 5 the processors that use torchvision also crop one pixel beside the PIL ones
    other = getattr(tf, kind)(**options)(Image.fromarray(picture), **{**raw, "return_tensors": "pt"})["pixel_values"][0]
    difference = np.abs(ours - other.permute(1, 2, 0).numpy().astype(int))
    assert difference.mean() < 0.5
    assert (difference > 2).mean() < 0.05


@pytest.mark.skipif(not hasattr(tf, "VideoMAEVideoProcessor"), reason="this transformers has no such processor")
def test_the_video_processor_is_read_where_there_is_no_image_processor(tmp_path: Path) -> None:
    saved(VIDEO_MODELS["videomae"], tmp_path)
    for file in tmp_path.glob("*processor*.json"):
        file.unlink()
    tf.VideoMAEVideoProcessor(**CROPPED).save_pretrained(tmp_path)
    described = load_backbone(f"hf:{tmp_path}").transform_json
    assert [step["op"] for step in described["frame"]] == ["resize_shortest", "center_crop"]
    assert described["size"] == [64, 64]


def test_half_precision_files_are_computed_in_float32(tmp_path: Path) -> None:
    model, _ = saved(IMAGE_MODELS["dinov2"], tmp_path)
    model.half().save_pretrained(tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.float32}


def test_the_text_tower_does_not_change_the_hash(tmp_path: Path) -> None:
    model, _ = saved(IMAGE_MODELS["clip"], tmp_path)
    before = load_backbone(f"hf:{tmp_path}").weights_hash
    model.text_projection.weight.data.add_(1)
    model.save_pretrained(tmp_path)
    assert load_backbone(f"hf:{tmp_path}").weights_hash == before
    model.visual_projection.weight.data.add_(1)
    model.save_pretrained(tmp_path)
    assert load_backbone(f"hf:{tmp_path}").weights_hash != before


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    """transformers itself would fill it with random numbers and go on."""
    model, _ = saved(IMAGE_MODELS["dinov2"], tmp_path)
    state = {key: value for key, value in model.state_dict().items() if "layer.1" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UsageError, match=r"cannot be loaded .*the weights lack .*layer\.1"):
        load_backbone(f"hf:{tmp_path}")


def test_a_finetuned_video_model_loads_without_its_classifier(tmp_path: Path) -> None:
    config = tf.VideoMAEConfig(**VISION, num_frames=4, num_labels=3)
    torch.manual_seed(0)
    model = tf.VideoMAEForVideoClassification(config).eval()
    model.save_pretrained(tmp_path)
    pil("VideoMAEImageProcessor")(**CROPPED).save_pretrained(tmp_path)
    pixels = torch.randn(2, 4, 3, 64, 64)
    with torch.inference_mode():
        expected = model.videomae(pixel_values=pixels).last_hidden_state.mean(1)
        assert_same(load_backbone(f"hf:{tmp_path}").encode(pixels), expected)


def test_other_models_and_processors_are_refused_in_one_line(tmp_path: Path) -> None:
    tf.BertModel(tf.BertConfig(**TEXT)).save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match=r"of type 'bert', which is not supported: choose one of clip,.*xclip"):
        load_backbone(f"hf:{tmp_path / 'bert'}")
    saved(IMAGE_MODELS["vit"], tmp_path / "vit")
    for file in (tmp_path / "vit").glob("*processor*.json"):
        file.write_text(json.dumps({"image_processor_type": "ConvNextImageProcessor"}))
    with pytest.raises(UsageError, match="ConvNextImageProcessor, which is not supported"):
        load_backbone(f"hf:{tmp_path / 'vit'}")
    with pytest.raises(UsageError, match="there is no folder"):
        load_backbone("hf:./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: cannot be loaded .* backbone hf:empty \(there is no config"):
        load_backbone(f"hf:{tmp_path / 'empty'}")


def test_the_processors_of_this_transformers_are_known() -> None:
    """A release that drops a processor we repeat would make its models unusable: be told by a test."""
    for name in ("CLIP", "Siglip", "Bit", "ViT", "VideoMAE"):
        assert inspect.isclass(pil(f"{name}ImageProcessor"))
