"""Tokenizers: fitted on captions, or read from a folder; with T5's conventions for the special tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from supportset.store.errors import UsageError

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2, as T5 has them
_PAD, _EOS, _UNK = SPECIAL_TOKENS
_SPACE = "▁"  # what Metaspace writes for a space


def fit_tokenizer(
    captions: Iterable[str], vocabulary: int, units: Literal["subwords", "words"] = "subwords"
) -> PreTrainedTokenizerFast:
    """Fit a tokenizer on captions; the same captions give the same tokenizer.

    Parameters
    ----------
    captions : sequence of str
        Training captions.
    vocabulary : int
        Most tokens it may have, the three special ones included.
    units : {'subwords', 'words'}
        ``subwords`` (byte-pair merges; what a decoder writes joins up to text again) or ``words`` (the most frequent
        words; rarer ones are unknown).

    Returns
    -------
    PreTrainedTokenizerFast
        Lower-cases, ends each sequence with ``</s>`` (id 1), pads with ``<pad>`` (id 0).

    Raises
    ------
    UsageError
        There is no caption to fit on.
    """
    captions = list(captions)
    if not any(caption.strip() for caption in captions):
        raise UsageError("no training caption to fit a tokenizer on: name a split that has captions (data.train_split)")
    normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    if units == "subwords":
        tokenizer, trainer = _subwords(vocabulary, _alphabet(captions, normalizer, vocabulary // 2))
    else:
        tokenizer, trainer = _words(vocabulary)
    tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_EOS}", pair=f"$A {_EOS} $B {_EOS}", special_tokens=[(_EOS, tokenizer.token_to_id(_EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_EOS,
        unk_token=_UNK,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Any, texts: list[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text, special tokens included, cut to ``max_tokens`` with the final one kept.

    A text that gives no token at all (empty, under a tokenizer without special tokens) becomes one unknown or
    padding token, so that no sequence is empty.
    """
    if not texts:
        return []
    sequences: list[list[int]] = _encoded(tokenizer, texts, max_tokens)["input_ids"]
    if all(sequences):
        return sequences
    filler = next((token for token in (tokenizer.unk_token_id, tokenizer.pad_token_id) if token is not None), 0)
    return [sequence or [filler] for sequence in sequences]


def places(tokenizer: Any, texts: list[str], max_tokens: int) -> list[list[tuple[int, int]]]:
    """First character and the one after the last of each token that `encode` gives; special tokens have (0, 0)."""
    if not texts:
        return []
    found: list[list[tuple[int, int]]] = _encoded(tokenizer, texts, max_tokens, places=True)["offset_mapping"]
    return [spans or [(0, 0)] for spans in found]


def _encoded(tokenizer: Any, texts: list[str], max_tokens: int, *, places: bool = False) -> Any:
    return tokenizer(
        texts,
        truncation=True,
        max_length=max_tokens,
        padding=False,
        return_attention_mask=False,
        return_offsets_mapping=places,
    )


def _alphabet(captions: list[str], normalizer: Any, most: int) -> list[str]:
    # The library's own choice among equally rare characters differs from run to run.
    counts = Counter(character for caption in captions for character in normalizer.normalize_str(caption))
    del counts[" "]
    common = sorted(counts, key=lambda character: (-counts[character], character))
    return [_SPACE, *common[: most - 1]]


def _subwords(vocabulary: int, alphabet: list[str]) -> tuple[Tokenizer, Any]:
    # Byte-pair merges are counted in integers, so that the result does not depend on the number of threads, as the
    # floating-point sums of a unigram model would.
    tokenizer = Tokenizer(models.BPE(unk_token=_UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    return tokenizer, trainer


def _words(vocabulary: int) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.WordLevel(unk_token=_UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    return tokenizer, trainer
