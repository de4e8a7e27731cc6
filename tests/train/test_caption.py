"""Captions: beam search against all sentences there are, and the verb's function on a trained run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from supportset.store.errors import UsageError
from supportset.train.caption import caption, until_end, write, write_lines
from supportset.train.loop.training import train
from supportset.train.model.decoder import IGNORED, CaptionDecoder
from supportset.train.model.model import SupportSetModel
from tests.train.small_store import config, plant

pytestmark = pytest.mark.slow


def tiny_decoder(seed: int, vocabulary: int = 5) -> CaptionDecoder:
    torch.manual_seed(seed)
    sizes = T5Config(
        vocab_size=vocabulary, d_model=8, d_kv=4, d_ff=16, num_layers=0, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    decoder = CaptionDecoder(T5ForConditionalGeneration(sizes), code_width=3).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return decoder


def all_sentences(vocabulary: int, longest: int, end: int) -> list[tuple[int, ...]]:
    """Every sentence that ends at its first end token, or is cut at the longest length."""
    return [
        words
        for length in range(1, longest + 1)
        for words in itertools.product(range(vocabulary), repeat=length)
        if end not in words[:-1] and (words[-1] == end or length == longest)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_beam_search_that_loses_no_beam_finds_the_best_of_all_sentences(seed: int) -> None:
    decoder = tiny_decoder(seed)
    codes = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    sentences = all_sentences(5, 4, decoder.end)
    labels = torch.tensor([[*words, *[IGNORED] * (4 - len(words))] for words in sentences])
    written = decoder.generate(codes, mask, max_tokens=4, beams=5**3)[:, 1:]
    for clip in range(2):
        many = len(sentences)
        with torch.no_grad():
            losses = decoder(codes[clip].expand(many, -1, -1), mask[clip].expand(many, -1), labels)
        best = sentences[int(losses.argmin())]
        assert written[clip, : len(best)].tolist() == list(best)


def test_one_beam_takes_the_likeliest_token_each_time() -> None:
    decoder = tiny_decoder(1)
    codes, mask = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(2)), torch.ones(1, 2, dtype=torch.bool)
    words: list[int] = []
    while len(words) < 4 and (not words or words[-1] != decoder.end):
        with torch.no_grad():
            losses = [
                decoder(codes, mask, torch.tensor([[*words, word]])).item() * (len(words) + 1) for word in range(5)
            ]
        words.append(losses.index(min(losses)))
    assert decoder.generate(codes, mask, max_tokens=4, beams=1)[0, 1 : len(words) + 1].tolist() == words


def test_more_beams_are_never_worse_by_much_and_the_score_is_the_decoders_own() -> None:
    decoder = tiny_decoder(3)
    codes, mask = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(2)), torch.ones(4, 2, dtype=torch.bool)
    scores = []
    for beams in (1, 3, 125):
        tokens = decoder.generate(codes, mask, max_tokens=4, beams=beams)[:, 1:]
        with torch.no_grad():
            scores.append(-decoder(codes, mask, until_end(tokens, decoder.end)))
    assert (scores[2] >= scores[0] - 1e-5).all()
    assert (scores[2] >= scores[1] - 1e-5).all()


def test_labels_stop_at_the_first_end_token() -> None:
    tokens = torch.tensor([[3, 1, 0, 0], [3, 4, 2, 3], [1, 1, 3, 1]])
    assert until_end(tokens, 1).tolist() == [[3, 1, -100, -100], [3, 4, 2, 3], [1, -100, -100, -100]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("store"), missing=("clip05-2",)).root


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    optim = {"epochs": 8, "batch_size": 24, "learning_rate": 1e-2, "select_by": "last"}  # retrieval is learned before
    setting = config(
        data={"holdout": 0.0}, support={"captioning": "identity"}, loss={"caption_weight": 2.0}, optim=optim
    )
    train(setting, root, path, device="cpu")
    return path


def test_captions_name_what_is_in_the_clips(root: Path, run: Path) -> None:
    found = caption(run, root, beams=3, device="cpu")
    concepts = plant_concepts()
    assert len(found.written) == 63
    assert found.missing == ["clip05-2"]
    right = [sum(word in each.caption.split() for word in concepts[each.clip_id]) for each in found.written]
    assert sum(right) / (3 * len(right)) > 0.8  # by chance a quarter
    assert all(-5 < each.score <= 0 for each in found.written)


def plant_concepts() -> dict[str, tuple[str, str, str]]:
    from tests.train.small_store import COLOURS, MOTIONS, THINGS

    words = itertools.product(COLOURS, THINGS, MOTIONS)
    return {f"clip{number:02d}-2": each for number, each in enumerate(words)}


def test_some_clips_are_captioned_in_the_order_asked_whatever_the_batch(root: Path, run: Path) -> None:
    asked = ["clip40-2", "clip03-0", "clip05-2", "clip11-1", "clip40-2"]
    found = caption(run, root, clips=asked, device="cpu", batch_size=2)
    assert [each.clip_id for each in found.written] == ["clip40-2", "clip03-0", "clip11-1"]
    assert found.missing == ["clip05-2"]
    whole = {each.clip_id: each for each in caption(run, root, split="test", device="cpu").written}
    assert found.written[0].caption == whole["clip40-2"].caption
    assert found.written[0].score == pytest.approx(whole["clip40-2"].score, abs=1e-4)


def test_lines_are_json_with_clip_and_caption(root: Path, run: Path, tmp_path: Path) -> None:
    found = caption(run, root, clips=["clip03-0", "clip00-1"], device="cpu")
    write_lines(found, tmp_path / "new" / "captions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "new" / "captions.jsonl").read_text().splitlines()]
    assert lines == [vars(each) for each in found.written]
    assert list(lines[0]) == ["clip_id", "caption", "score"]


def test_writing_is_of_the_clips_own_codes(root: Path, run: Path) -> None:
    model = SupportSetModel.from_pretrained(run)
    features = torch.randn(3, 4, model.feature_dim, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 4, dtype=torch.bool)
    alone = [write(model, features[i : i + 1], mask[i : i + 1], 2, 12) for i in range(3)]
    texts, scores = write(model, features, mask, 2, 12)
    assert texts == [each[0][0] for each in alone]
    torch.testing.assert_close(scores, torch.cat([each[1] for each in alone]))


def test_runs_that_never_saw_their_own_clip_are_refused(root: Path, run: Path, tmp_path: Path) -> None:
    for captioning, words in (("none", "the run has no decoder"), ("cross", "give --force"), ("full", "give --force")):
        setting = config(support={"captioning": captioning}, optim={"max_steps": 1})
        train(setting, root, tmp_path / captioning, device="cpu")
        with pytest.raises(UsageError, match=f"support.captioning is '{captioning}'.*{words}"):
            caption(tmp_path / captioning, root, device="cpu")
    assert len(caption(tmp_path / "cross", root, clips=["clip03-0"], force=True, device="cpu").written) == 1
    with pytest.raises(UsageError, match="has no decoder"):
        caption(tmp_path / "none", root, force=True, device="cpu")


def test_what_cannot_be_captioned_is_one_line(root: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="either --split or --clips"):
        caption(run, root, split="test", clips=["clip03-0"])
    with pytest.raises(UsageError, match="no clip 'x', nor 1 more"):
        caption(run, root, clips=["x", "clip03-0", "y"])
    with pytest.raises(UsageError, match="none of the 1 requested clips has features"):
        caption(run, root, clips=["clip05-2"])
    with pytest.raises(UsageError, match="--beams 0"):
        caption(run, root, beams=0)
    with pytest.raises(UsageError, match="not a run folder"):
        caption(tmp_path, root)
