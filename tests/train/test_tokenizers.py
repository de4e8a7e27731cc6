"""Tokenizers fitted on captions: T5's conventions, the same result every time, read back as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from supportset.store.errors import UsageError
from supportset.train.model.weights.tokenizers import encode, fit_tokenizer
from tests.train.small_models import CAPTIONS


@pytest.mark.parametrize("units", ["subwords", "words"])
def test_conventions(units: str) -> None:
    tokenizer = fit_tokenizer(CAPTIONS, 120, units)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert len(tokenizer) <= 120
    upper, lower, empty = encode(tokenizer, ["A RED  ball\n", "a red ball", ""], 10)
    assert upper == lower
    assert lower[-1] == 1
    assert empty == [1]
    assert all(token > 2 for token in lower[:-1])
    assert 2 in encode(tokenizer, ["ж"], 10)[0]
    assert encode(tokenizer, [], 10) == []


@pytest.mark.parametrize("units", ["subwords", "words"])
def test_a_long_caption_is_cut_and_still_ends(units: str) -> None:
    tokenizer = fit_tokenizer(CAPTIONS, 120, units)
    whole, cut = encode(tokenizer, [CAPTIONS[1]], 32)[0], encode(tokenizer, [CAPTIONS[1]], 4)[0]
    assert len(whole) > 4
    assert cut == [*whole[:3], 1]


def test_subwords_join_up_to_text_again() -> None:
    tokenizer = fit_tokenizer(CAPTIONS, 200)
    ids = encode(tokenizer, ["The  blue ball, which is red, goes."], 64)[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the blue ball, which is red, goes."


def test_words_stay_whole() -> None:
    tokenizer = fit_tokenizer(CAPTIONS, 120, "words")
    assert len(encode(tokenizer, ["green squares, red"], 10)[0]) == 5  # three words, a comma, the end


@pytest.mark.parametrize("units", ["subwords", "words"])
def test_saved_and_read_back(units: str, tmp_path: Path) -> None:
    tokenizer = fit_tokenizer(CAPTIONS, 120, units)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(again, CAPTIONS, 12) == encode(tokenizer, CAPTIONS, 12)
    assert again.pad_token_id == 0


def test_other_processes_fit_the_same() -> None:
    # A vocabulary too small for all characters, so that the choice among equally rare ones shows.
    program = (
        "import json, sys\n"
        "from supportset.train.model.weights.tokenizers import fit_tokenizer\n"
        "for units in ('subwords', 'words'):\n"
        "    print(fit_tokenizer(json.loads(sys.argv[1]), 30, units).backend_tokenizer.to_str())"
    )
    root = Path(__file__).resolve().parents[2]
    here = "".join(
        fit_tokenizer(CAPTIONS, 30, units).backend_tokenizer.to_str() + "\n" for units in ("subwords", "words")
    )
    command = [sys.executable, "-c", program, json.dumps(CAPTIONS)]
    there = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert there.stdout == here


def test_no_caption_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="train_split"):
        fit_tokenizer(["", "  "], 100)
