"""Models of transformers: small random ones, saved with their processors, loaded by folder as a user would."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.encoder import hash_state
from supportset.extract.backbones.hf_processors import prepare
from supportset.extract.backbones.hf_types import load_network, visual_state
from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import assert_same, features
from tests.extract.backbones.frames import SIZES, frame, video
from tests.extract.backbones.hf_models import CROPPED, MODELS, SQUARE, TEXT, VISION, expected, pil, saved
from tests.extract.films import write_video


@pytest.mark.parametrize("name", MODELS)
def test_features_of_a_film_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    """Decoded as in an extraction, beside the same decoded frames through the library's processor and model."""
    case = MODELS[name]
    folder = tmp_path / f"my-{name}"
    model, processor = saved(name, folder)
    backbone = load_backbone(f"hf:{folder}")
    film = write_video(tmp_path / "film.mp4", 12, size=(112, 96))
    sampling = Sampling(frames=3, window=case.window)
    raw, ours = (
        [step.frames if case.window > 1 else step.frames.reshape(step.frames.shape[-3:])
         for step in decode_clip(film, sampling=sampling, transform=transform)]
        for transform in (None, pickle.loads(pickle.dumps(backbone.frame_transform())))
    )  # fmt: skip
    given = backbone.forward(torch.from_numpy(np.stack(ours)))
    wanted = expected(name, model, processor, raw)
    assert (backbone.name, backbone.weights) == (f"hf:my-{name}", f"my-{name}")
    assert (backbone.dim, backbone.window, given.shape) == (case.dim, case.window, wanted.shape)
    assert wanted.std(0).max() > 1e-3 * wanted.abs().max(), "the frames must tell apart what is compared"
    assert ((given - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < case.tolerance


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("siglip2", "siglip2_vision_model")])
def test_given_the_same_pixels_the_forward_is_that_of_the_library(name: str, tmp_path: Path) -> None:
    """Whatever its processor computes with: the differences that remain are those of the order of sums."""
    case = MODELS[name]
    model, _ = saved(name, tmp_path)
    backbone = load_backbone(f"hf:some/{name}@{tmp_path}")
    pixels = torch.randn(2, *([case.window] if case.window > 1 else []), 3, 64, 64)
    with torch.inference_mode():
        wanted = case.expected(model, {_argument(model): pixels})
        assert_same(backbone.encode(pixels), wanted)
    assert backbone.name == f"hf:some/{name}"


def _argument(model: Any) -> str:
    named = model.video_model if isinstance(model, getattr(tf, "PeAudioVideoModel", ())) else model
    takes = inspect.signature(named.forward).parameters
    return "pixel_values_videos" if "pixel_values_videos" in takes else "pixel_values"


@pytest.mark.parametrize("name", MODELS)
def test_only_the_visual_part_is_kept_and_hashed(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    parts = {part for key in backbone.model.state_dict() for part in key.split(".")}
    assert not parts & {"text_model", "text_projection", "text_video_head", "logit_scale", "logit_bias", "predictor",
                        "audio_model", "pooler", "prompts_generator"}  # fmt: skip
    config = tf.AutoConfig.from_pretrained(tmp_path)
    whole, missing = load_network(str(tmp_path), config)
    assert not missing
    assert hash_state(visual_state(whole, config.model_type)) == backbone.weights_hash


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
    reference = pil(kind, **options)
    ours = prepare("hf:x", reference, 1).transform(picture).astype(int)
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
    saved("videomae", tmp_path)
    for file in tmp_path.glob("*processor*.json"):
        file.unlink()
    tf.VideoMAEVideoProcessor(**CROPPED).save_pretrained(tmp_path)
    described = load_backbone(f"hf:{tmp_path}").transform_json
    assert [step["op"] for step in described["frame"]] == ["resize_shortest", "center_crop"]
    assert described["size"] == [64, 64]


def test_half_precision_files_are_computed_in_float32(tmp_path: Path) -> None:
    model, _ = saved("dinov2", tmp_path)
    model.half().save_pretrained(tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.float32}


def test_the_text_tower_does_not_change_the_hash(tmp_path: Path) -> None:
    model, _ = saved("clip", tmp_path)
    before = load_backbone(f"hf:{tmp_path}").weights_hash
    model.text_projection.weight.data.add_(1)
    model.save_pretrained(tmp_path)
    assert load_backbone(f"hf:{tmp_path}").weights_hash == before
    model.visual_projection.weight.data.add_(1)
    model.save_pretrained(tmp_path)
    assert load_backbone(f"hf:{tmp_path}").weights_hash != before


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    """transformers itself would fill it with random numbers and go on."""
    model, _ = saved("dinov2", tmp_path)
    state = {key: value for key, value in model.state_dict().items() if "layer.1" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UsageError, match=r"cannot be loaded .*the weights lack .*layer\.1"):
        load_backbone(f"hf:{tmp_path}")


def test_a_finetuned_video_model_loads_without_its_classifier(tmp_path: Path) -> None:
    config = tf.VideoMAEConfig(**VISION, num_frames=4, num_labels=3)
    torch.manual_seed(0)
    model = tf.VideoMAEForVideoClassification(config).eval()
    model.save_pretrained(tmp_path)
    pil("VideoMAEImageProcessor", **CROPPED).save_pretrained(tmp_path)
    pixels = torch.randn(2, 4, 3, 64, 64)
    with torch.inference_mode():
        expected = model.videomae(pixel_values=pixels).last_hidden_state.mean(1)
        assert_same(load_backbone(f"hf:{tmp_path}").encode(pixels), expected)


def test_other_models_and_processors_are_refused_in_one_line(tmp_path: Path) -> None:
    tf.BertModel(tf.BertConfig(**TEXT)).save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match=r"of type 'bert', which is not supported: choose one of clip,.*xclip"):
        load_backbone(f"hf:{tmp_path / 'bert'}")
    with pytest.raises(UsageError, match="there is no folder"):
        load_backbone("hf:./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: cannot be loaded .* backbone hf:empty \(there is no config"):
        load_backbone(f"hf:{tmp_path / 'empty'}")


def test_the_processors_of_this_transformers_are_known() -> None:
    """A release that drops a processor we repeat would make its models unusable: be told by a test."""
    for name in ("CLIP", "Siglip", "Bit", "ViT", "VideoMAE"):
        assert pil(f"{name}ImageProcessor")


def with_processor(name: str, processor: Any, folder: Path) -> Any:
    """A model beside another processor than its own."""
    model, _ = saved(name, folder)
    for file in folder.glob("*processor*.json"):
        file.unlink()
    processor.save_pretrained(folder)
    return model


def test_an_unknown_processor_is_called_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    processor = pil("ConvNextImageProcessor", size={"shortest_edge": 64}, crop_pct=0.8)
    model = with_processor("vit", processor, tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    [line] = [record.getMessage() for record in caplog.records]
    assert "own ConvNextImageProcessor" in line
    assert "slower" in line
    pictures = [frame(240, 320, 1), frame(181, 97, 2)]
    loaded = tf.AutoImageProcessor.from_pretrained(tmp_path)
    batch = loaded([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
    with torch.inference_mode():
        wanted = model(**batch).last_hidden_state[:, 0]
    assert_same(features(backbone, pictures), wanted)
    [step] = backbone.transform_json["frame"]
    assert step["processor"] == type(loaded).__name__
    assert step["settings"] == json.loads(loaded.to_json_string())
    assert step["transformers"] == tf.__version__
    assert backbone.transform_json["size"] == [64, 64]
    assert load_backbone(f"hf:{tmp_path}#tokens").vectors == 16


@pytest.mark.skipif(not hasattr(tf, "InternVLVideoProcessor"), reason="this transformers has no such processor")
def test_a_video_processor_that_samples_gets_exactly_the_window(tmp_path: Path) -> None:
    processor = tf.InternVLVideoProcessor(**SQUARE, do_sample_frames=True, num_frames=2)
    model = with_processor("videomae", processor, tmp_path)
    clips = [video(4, 90, 120, 1), video(4, 130, 97, 2)]
    wanted = torch.cat(
        [processor([clip], return_tensors="pt", do_sample_frames=False)["pixel_values_videos"] for clip in clips]
    )
    with torch.inference_mode():
        assert_same(features(load_backbone(f"hf:{tmp_path}"), clips), model(wanted).last_hidden_state.mean(1))


def test_a_processor_whose_pictures_do_not_fit_is_refused(tmp_path: Path) -> None:
    """Of several sizes; or not pictures at all, where the model takes pictures, and the contrary."""
    with_processor("vit", pil("ViTImageProcessor", do_resize=False), tmp_path / "sizes")
    with pytest.raises(UsageError, match=r"makes pictures of several sizes: \(48, 64\), .*: choose another model"):
        load_backbone(f"hf:{tmp_path / 'sizes'}")
    with_processor("vit", pil("Siglip2ImageProcessor"), tmp_path / "patches")
    with pytest.raises(UsageError, match="Siglip2ImageProcessor, but the model needs a processor that gives pictures"):
        load_backbone(f"hf:{tmp_path / 'patches'}")
    with_processor("siglip2", pil("SiglipImageProcessor", **SQUARE), tmp_path / "pictures")
    with pytest.raises(UsageError, match="SiglipImageProcessor, but the model needs a Siglip2ImageProcessor"):
        load_backbone(f"hf:{tmp_path / 'pictures'}")


@pytest.mark.parametrize("size", [*SIZES, (2, 900), (900, 2)])
def test_patches_of_any_shape_are_those_of_the_library(size: tuple[int, int]) -> None:
    processor = pil("Siglip2ImageProcessor", patch_size=8, max_num_patches=300)
    picture = frame(*size)
    packed = prepare("hf:x", processor, 1, patches=True).transform(picture)
    raw = processor(Image.fromarray(picture), do_rescale=False, do_normalize=False, return_tensors="np")
    rows, columns = raw["spatial_shapes"][0]
    assert packed[0, :2, :2].tolist() == [list(divmod(rows, 256)), list(divmod(columns, 256))]
    np.testing.assert_array_equal(packed[1:].reshape(300, -1), raw["pixel_values"][0])
