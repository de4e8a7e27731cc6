"""Encoder pairs of a few thousand random weights, saved with tokenizer and processor as local copies lie there.

Every tower gives ``DIM`` numbers, so that the pairs are told apart by their weights alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.extract.text_models import CAPTIONS

DIM, TOKENS, SIDE, WINDOW = 16, 12, 32, 4
_SMALL = {"hidden_size": DIM, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = _SMALL | {"image_size": SIDE, "patch_size": 16}
_WORDS = 160  # tokens of the vocabulary
_TEXT = _SMALL | {"vocab_size": _WORDS, "max_position_embeddings": TOKENS, "eos_token_id": 2, "bos_token_id": 1,
                  "pad_token_id": 0}  # fmt: skip
_CROPPED = {"size": {"shortest_edge": SIDE + 8}, "crop_size": {"height": SIDE, "width": SIDE}}
_SQUARE = {"size": {"height": SIDE, "width": SIDE}}


def _xclip() -> Any:
    integration = {"mit_hidden_size": DIM, "mit_intermediate_size": 24, "mit_num_attention_heads": 2}
    vision = _VISION | {"num_frames": WINDOW} | integration
    return tf.XCLIPModel(tf.XCLIPConfig(text_config=_TEXT, vision_config=vision, projection_dim=DIM))


def _videoprism() -> Any:
    vision = {
        "hidden_size": DIM, "intermediate_size": 24, "num_attention_heads": 2, "num_spatial_layers": 1,
        "num_temporal_layers": 1, "num_auxiliary_layers": 1, "num_frames": WINDOW, "image_size": SIDE, "patch_size": 16,
    }  # fmt: skip
    config = tf.VideoPrismConfig(text_config=_TEXT, vision_config=vision)
    return tf.VideoPrismClipModel(config)


def _pe_video() -> Any:
    frames = {
        "model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336", "num_classes": DIM,
        "do_pooling": True, "global_pool": "map", "initializer_range": 0.02,
        "model_args": {"embed_dim": DIM, "img_size": (28, 28), "depth": 2, "num_heads": 2, "ref_feat_shape": (2, 2)},
    }  # fmt: skip
    video = _SMALL | {"head_dim": 8, "vision_config": frames}
    text = _SMALL | {"model_type": "modernbert", "vocab_size": _WORDS, "max_position_embeddings": TOKENS,
                     "pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 8}  # fmt: skip
    return tf.PeVideoModel(tf.PeVideoConfig(text_config=text, video_config=video))


# type: (model, processor's class, its options, the tokenizer's options)
PAIRS: dict[str, tuple[Callable[[], Any], str, dict[str, Any], dict[str, Any]]] = {
    "clip": (
        lambda: tf.CLIPModel(tf.CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=DIM)),
        "CLIPImageProcessor", _CROPPED, {},
    ),
    "metaclip_2": (
        lambda: tf.MetaClip2Model(tf.MetaClip2Config(text_config=_TEXT, vision_config=_VISION, projection_dim=DIM)),
        "CLIPImageProcessor", _CROPPED, {},
    ),
    "siglip": (
        lambda: tf.SiglipModel(tf.SiglipConfig(text_config=_TEXT, vision_config=_VISION)),
        "SiglipImageProcessor", _SQUARE, {"model_input_names": ["input_ids"]},
    ),
    "siglip2": (
        lambda: tf.Siglip2Model(
            tf.Siglip2Config(text_config=_TEXT, vision_config=_SMALL | {"patch_size": 16, "num_patches": 16})
        ),
        "Siglip2ImageProcessor", {"patch_size": 16, "max_num_patches": 16},
        {"model_input_names": ["input_ids"], "padding_side": "left"},
    ),
    "xclip": (_xclip, "VideoMAEImageProcessor", _CROPPED, {}),
    "videoprism": (_videoprism, "LlavaOnevisionVideoProcessor", _SQUARE | {"do_normalize": False}, {}),
    "pe_video": (_pe_video, "PeVideoVideoProcessor", {"size": {"height": 28, "width": 28}}, {}),
}  # fmt: skip


def save_pair(name: str, folder: Path, seed: int = 0) -> Any:
    """Build a pair of one type, spread its weights, save all its files; return the model."""
    build, processor, options, tokenizer = PAIRS[name]
    torch.manual_seed(seed)
    model = build().eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    kind = getattr(tf, f"{processor}Pil", None) or getattr(tf, processor)
    kind(**options).save_pretrained(folder)
    save_tokenizer(folder, **tokenizer)
    return model


def save_tokenizer(folder: Path, **options: Any) -> None:
    """A byte-pair vocabulary of the captions' letters and words, with a token at each end."""
    fitted = Tokenizer(models.BPE(unk_token="<unk>"))
    fitted.normalizer = normalizers.Lowercase()
    fitted.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    fitted.train_from_iterator(
        [*CAPTIONS, *"abcdefghijklmnopqrstuvwxyz"],
        trainers.BpeTrainer(vocab_size=_WORDS - 10, special_tokens=special, show_progress=False),
    )
    ends = [("<s>", 1), ("</s>", 2)]
    fitted.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tf.PreTrainedTokenizerFast(
        tokenizer_object=fitted, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_max_length=TOKENS, **options,
    ).save_pretrained(folder)  # fmt: skip
