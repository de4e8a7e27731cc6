"""Text encoders of a few thousand random weights, saved as a user's local copies would lie there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from transformers import T5Config, T5ForConditionalGeneration  # isort: skip

from supportset.store.format.dataset import Dataset, write_dataset

CAPTIONS = [
    "A red ball rolls to the left.",
    "two green squares spin",
    "a blue star falls slowly, and then a second blue star falls beside it while nothing else moves at all",
    "ball",
    "   ",
    "Three yellow rings jump over a line.",
    "the ball, which is red, goes left",
]


def save_bert(folder: Path, seed: int = 0, **sizes: int) -> BertModel:
    """A BERT with a WordPiece vocabulary of the captions' own words and letters, lower-cased."""
    words = sorted({word for text in CAPTIONS for word in text.lower().replace(",", " ").replace(".", " ").split()})
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    entries = list(dict.fromkeys([*special, *words, ",", ".", *letters, *(f"##{letter}" for letter in letters)]))
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(entries),
        **{"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        | {"max_position_embeddings": 40, "initializer_range": 0.3} | sizes,
    )  # fmt: skip
    model = BertModel(config)
    model.save_pretrained(folder)
    return model.eval()


def save_t5(folder: Path, tokenizer: Path | None = None, seed: int = 0) -> T5ForConditionalGeneration:
    """A whole T5, decoder included, with a small tokenizer of its own or a copy of the real one."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        for file in tokenizer.iterdir():
            shutil.copy(file, folder / file.name)
        size = 32128
    else:
        fitted = Tokenizer(models.BPE(unk_token="<unk>"))
        fitted.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
        fitted.train_from_iterator(CAPTIONS, trainer)
        fitted.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        PreTrainedTokenizerFast(
            tokenizer_object=fitted, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ).save_pretrained(folder)
        size = 128
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
    )
    model.save_pretrained(folder)
    return model.eval()


def save_roberta(folder: Path) -> RobertaModel:
    """A RoBERTa, which counts positions from behind its padding's number, with the BERT's words."""
    save_bert(folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    model = RobertaModel(
        RobertaConfig(
            vocab_size=size, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=20, pad_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    return model.eval()


def captions_of(root: Path, texts: list[str] | dict[str, str] = CAPTIONS, name: str = "said") -> Dataset:
    """A dataset of captions without a clip's file: two a clip; every second clip is in split ``test`` of ``p``."""
    named = texts if isinstance(texts, dict) else {f"cap{i}": text for i, text in enumerate(texts)}
    rows = [
        {"caption_id": key, "clip_id": f"clip{i // 2}", "text": text} for i, (key, text) in enumerate(named.items())
    ]
    clips = [{"clip_id": clip, "path": None} for clip in dict.fromkeys(row["clip_id"] for row in rows)]
    splits = [
        {"protocol": "p", "split": ("train", "test")[i % 2], "clip_id": clip["clip_id"]} for i, clip in enumerate(clips)
    ]
    sizes = {"p": {"train": None, "test": None}}
    return write_dataset(root, name, clips=clips, captions=rows, splits=splits, protocols=sizes, sources=[])
