"""Encoder pairs of a few thousand random weights, saved with tokenizer and processor as local copies lie there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import transformers as tf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.extract.backbones.hf_models import MODELS, saved
from tests.extract.text_models import CAPTIONS

TOKENS = 12
OPEN_CLIP = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
# The pairs of transformers, and what is special about their tokenizers
_OPTIONS: dict[str, dict[str, Any]] = {
    "clip": {},
    "metaclip_2": {},
    "siglip": {"model_input_names": ["input_ids"]},
    "siglip2": {"model_input_names": ["input_ids"], "padding_side": "left"},
    "xclip": {},
    "videoprism": {},
    "pe_video": {},
    "pe_audio_video": {},
}
PAIRS = [name for name in _OPTIONS if name in MODELS]


def save_pair(name: str, folder: Path, seed: int = 0) -> Any:
    """Save all files of a pair of transformers; another seed gives other weights; return the model."""
    model, _ = saved(name, folder)
    if seed:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
    save_tokenizer(folder, **_OPTIONS[name])
    return model


def save_tokenizer(folder: Path, **options: Any) -> None:
    """A byte-pair vocabulary of letters and a few of the captions' syllables, with a token at each end."""
    fitted = Tokenizer(models.BPE(unk_token="<unk>"))
    fitted.normalizer = normalizers.Lowercase()
    fitted.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=38, special_tokens=special, show_progress=False)
    fitted.train_from_iterator([*CAPTIONS, *"abcdefghijklmnopqrstuvwxyz"], trainer)
    ends = [("<s>", 1), ("</s>", 2)]
    fitted.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tf.PreTrainedTokenizerFast(
        tokenizer_object=fitted, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_max_length=TOKENS, **options,
    ).save_pretrained(folder)  # fmt: skip


def save_open_clip(folder: Path) -> Any:
    """Save a pair of open_clip as its hub has them; return the model."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.CLIP(**OPEN_CLIP).eval()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return model


def library_texts(kind: str, folder: Path, model: Any, texts: list[str]) -> np.ndarray:
    """Embeddings of texts by transformers alone, as its model cards say: (N, d), not normalised."""
    if kind != "pe_audio_video":  # transformers does not read what it writes of tied weights
        model = tf.AutoModel.from_pretrained(folder).eval()
    reader = tf.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if kind in ("siglip", "siglip2", "videoprism") else True
    inputs = reader(texts, padding=padding, truncation=True, max_length=TOKENS, return_tensors="pt")
    inputs = {name: inputs[name] for name in reader.model_input_names if name != "token_type_ids"}
    with torch.no_grad():
        if kind.startswith("pe_"):  # its get_text_features is not reachable: what its forward compares with videos
            frames = torch.zeros(len(texts), 2, 3, 64, 64)
            pair = getattr(model, "video_model", model)
            return pair(pixel_values_videos=frames, **inputs).text_video_embeds.numpy()
        output = model.get_text_features(**inputs)
    return getattr(output, "pooler_output", output).numpy()
