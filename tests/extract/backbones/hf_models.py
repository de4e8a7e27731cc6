"""A small random model of every type of transformers that we know, with the processor it is published with.

Each says what the library itself gives for a batch that its processor made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SMALL | {"image_size": 64, "patch_size": 16}
TEXT = SMALL | {"vocab_size": 40, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2}
CROPPED = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
SQUARE = {"size": {"height": 64, "width": 64}}
PRISM = {
    "image_size": 64, "num_frames": 4, "tubelet_size": (1, 16, 16), "hidden_size": 32, "intermediate_size": 48,
    "num_attention_heads": 2, "num_spatial_layers": 2, "num_temporal_layers": 1, "num_auxiliary_layers": 1,
}  # fmt: skip
PATCHES = SMALL | {"patch_size": 8, "num_patches": 36}
MODERNBERT = SMALL | {"model_type": "modernbert", "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1,
                      "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}  # fmt: skip
PE = SMALL | {
    "model_type": "pe_video_encoder", "head_dim": 16, "vision_config": {
        "model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384", "num_classes": 24,
        "model_args": {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2}, "global_pool": "map",
    },
}  # fmt: skip
PE_AUDIO = SMALL | {
    "model_type": "pe_audio_encoder", "head_dim": 16, "dac_config": {
        "encoder_hidden_size": 8, "downsampling_ratios": [2, 2], "decoder_hidden_size": 16, "n_codebooks": 1,
        "codebook_size": 8, "codebook_dim": 4, "hidden_size": 32,
    },
}  # fmt: skip

PIL_PIXELS = 1e-5  # processors that compute with PIL: the same pixels, so only the order of sums differs
TORCHVISION_PIXELS = 5e-3  # processors that resize with torchvision: a grey level here and there


@dataclass(frozen=True)
class Case:
    """A model, its processor, and the library's own features.

    Attributes
    ----------
    build : callable
        Makes the model.
    processor : str
        Class of transformers; its variant that computes with PIL where there is one.
    options : dict
        Of the processor.
    expected : callable
        (model, the processor's batch) -> features.
    dim, window : int
    tolerance : float
        Of the largest relative difference of a vector.
    """

    build: Callable[[], Any]
    processor: str
    options: dict[str, Any]
    expected: Callable[[Any, Any], torch.Tensor]
    dim: int = 32
    window: int = 1
    tolerance: float = PIL_PIXELS

    @property
    def there(self) -> bool:
        """Whether this transformers has the processor (and so the model)."""
        return hasattr(tf, self.processor)


def pil(name: str, **options: Any) -> Any:
    """A processor that computes with PIL: a class of its own in transformers 5, the plain one before."""
    return (getattr(tf, f"{name}Pil", None) or getattr(tf, name))(**options)


def tensor(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def image_features(model: Any, batch: Any) -> torch.Tensor:
    return tensor(model.get_image_features(**batch))


def class_token(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch).last_hidden_state[:, 0]


def mean_token(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch).last_hidden_state.mean(1)


def pooled(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch).pooler_output


def video_embeds(model: Any, batch: Any) -> torch.Tensor:
    """What the forward of PE-video compares with a text, whatever the text."""
    return model(input_ids=torch.ones(len(batch["pixel_values_videos"]), 3, dtype=torch.long), **batch).video_embeds


def pe_options() -> dict[str, Any]:
    scaled = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    return SQUARE | scaled | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "num_frames": 4}


IMAGE_MODELS = {
    "clip": Case(
        lambda: tf.CLIPModel(tf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=20)),
        "CLIPImageProcessor", CROPPED, image_features, 20,
    ),
    "clip_vision_model": Case(
        lambda: tf.CLIPVisionModelWithProjection(tf.CLIPVisionConfig(**VISION, projection_dim=20)),
        "CLIPImageProcessor", CROPPED, lambda model, batch: model(**batch).image_embeds, 20,
    ),
    "metaclip_2": Case(
        lambda: tf.MetaClip2Model(tf.MetaClip2Config(text_config=TEXT, vision_config=VISION, projection_dim=20)),
        "CLIPImageProcessor", CROPPED, image_features, 20,
    ),
    "metaclip_2_vision_model": Case(
        lambda: tf.MetaClip2VisionModelWithProjection(tf.MetaClip2VisionConfig(**VISION, projection_dim=20)),
        "CLIPImageProcessor", CROPPED, lambda model, batch: model(**batch).image_embeds, 20,
    ),
    "siglip": Case(
        lambda: tf.SiglipModel(tf.SiglipConfig(text_config=TEXT, vision_config=VISION)),
        "SiglipImageProcessor", SQUARE, image_features,
    ),
    "siglip_vision_model": Case(
        lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**VISION)), "SiglipImageProcessor", SQUARE, pooled
    ),
    "siglip2": Case(
        lambda: tf.Siglip2Model(tf.Siglip2Config(text_config=TEXT, vision_config=PATCHES)),
        "Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 30}, image_features,
    ),
    "siglip2_vision_model": Case(
        lambda: tf.Siglip2VisionModel(tf.Siglip2VisionConfig(**PATCHES)),
        "Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 30}, pooled,
    ),
    "dinov2": Case(lambda: tf.Dinov2Model(tf.Dinov2Config(**VISION)), "BitImageProcessor", CROPPED, pooled),
    "dinov2_with_registers": Case(
        lambda: tf.Dinov2WithRegistersModel(tf.Dinov2WithRegistersConfig(**VISION)),
        "BitImageProcessor", CROPPED, pooled,
    ),
    "dinov3_vit": Case(
        lambda: tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**VISION, num_register_tokens=2)),
        "DINOv3ViTImageProcessor", SQUARE, pooled, tolerance=TORCHVISION_PIXELS,
    ),
    "vit": Case(lambda: tf.ViTModel(tf.ViTConfig(**VISION)), "ViTImageProcessor", SQUARE, class_token),
}  # fmt: skip
VIDEO_MODELS = {
    "videomae": Case(
        lambda: tf.VideoMAEModel(tf.VideoMAEConfig(**VISION, num_frames=4)),
        "VideoMAEImageProcessor", CROPPED, mean_token, window=4,
    ),
    "xclip": Case(
        lambda: tf.XCLIPModel(
            tf.XCLIPConfig(text_config=TEXT, projection_dim=20, vision_config=VISION | {
                "num_frames": 4, "mit_hidden_size": 20, "mit_intermediate_size": 32, "mit_num_attention_heads": 2,
            })
        ),
        "VideoMAEImageProcessor", CROPPED, lambda model, batch: tensor(model.get_video_features(**batch)), 20, 4,
    ),
    "timesformer": Case(
        lambda: tf.TimesformerModel(tf.TimesformerConfig(**VISION, num_frames=4)),
        "TimesformerVideoProcessor", CROPPED, class_token, 32, 4, TORCHVISION_PIXELS,
    ),
    "vjepa2": Case(
        lambda: tf.VJEPA2Model(
            tf.VJEPA2Config(crop_size=64, frames_per_clip=4, hidden_size=48, num_attention_heads=2, num_hidden_layers=2,
                            pred_hidden_size=48, pred_num_attention_heads=2, pred_num_hidden_layers=1)
        ),
        "VJEPA2VideoProcessor", {"crop_size": 64},
        lambda model, batch: model.get_vision_features(**batch).mean(1), 48, 4, TORCHVISION_PIXELS,
    ),
    "videoprism": Case(
        lambda: tf.VideoPrismClipModel(tf.VideoPrismConfig(vision_config=PRISM, text_config=TEXT)),
        "LlavaOnevisionVideoProcessor", SQUARE | {"do_normalize": False, "do_sample_frames": True, "num_frames": 3},
        lambda model, batch: tensor(model.get_video_features(**batch))[:, 0], 32, 4, TORCHVISION_PIXELS,
    ),
    "videoprism_vision_model": Case(
        lambda: tf.VideoPrismVisionModel(tf.VideoPrismVisionConfig(**PRISM)),
        "LlavaOnevisionVideoProcessor", SQUARE | {"do_normalize": False}, mean_token, 32, 4, TORCHVISION_PIXELS,
    ),
    "pe_video": Case(
        lambda: tf.PeVideoModel(tf.PeVideoConfig(text_config=MODERNBERT, video_config=PE)),
        "PeVideoVideoProcessor", pe_options(), video_embeds, 32, 4, TORCHVISION_PIXELS,
    ),
    "pe_audio_video": Case(
        lambda: tf.PeAudioVideoModel(
            tf.PeAudioVideoConfig(
                text_config=MODERNBERT,
                audio_video_config=SMALL | {"head_dim": 16, "audio_config": PE_AUDIO, "video_config": PE},
            )
        ),
        "PeVideoVideoProcessor", pe_options(), lambda model, batch: video_embeds(model.video_model, batch), 32, 4,
        TORCHVISION_PIXELS,
    ),
}  # fmt: skip
MODELS = {name: case for name, case in (IMAGE_MODELS | VIDEO_MODELS).items() if case.there}


def saved(name: str, folder: Path) -> tuple[Any, Any]:
    """Build, spread out (so that no parameter is near zero), save model and processor; return both."""
    case = MODELS[name]
    torch.manual_seed(0)
    model = case.build().eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor = pil(case.processor, **case.options)
    processor.save_pretrained(folder)
    return model, processor


def expected(name: str, model: Any, processor: Any, steps: Sequence[np.ndarray]) -> torch.Tensor:
    """The library's own features of raw frames (H, W, 3), or of windows (window, H, W, 3): its processor, its model."""
    if MODELS[name].window == 1:
        batch = dict(processor([Image.fromarray(step) for step in steps], return_tensors="pt"))
    else:
        options = {"do_sample_frames": False} if hasattr(processor, "sample_frames") else {}
        batches = [processor(list(step), return_tensors="pt", **options) for step in steps]
        batch = {key: torch.cat([each[key] for each in batches]) for key in batches[0]}
    with torch.inference_mode():
        return MODELS[name].expected(model, batch)
