"""The run over text: right features whatever the batch, an outcome for every caption, nothing done twice."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, T5EncoderModel, ViTConfig, ViTModel

from supportset.extract.backbones import load_backbone
from supportset.extract.progress.interrupted import Interrupted
from supportset.extract.text.encoders import load_recorded, load_text_encoder
from supportset.extract.text.encoders.base import TextEncoder, TextTower, Tokens
from supportset.extract.text.run import TextSummary, extract_text
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.dataset import open_dataset
from supportset.store.read.feature_set import FeatureSet
from tests.extract.text_models import CAPTIONS, captions_of, save_bert, save_roberta, save_t5

pytestmark = pytest.mark.slow

SAVE: dict[str, Callable[[Path], Any]] = {"bert": save_bert, "t5": save_t5, "roberta": save_roberta}
WITH_WORDS = [number for number, text in enumerate(CAPTIONS) if text.strip()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A local copy of each kind of model."""
    root = tmp_path_factory.mktemp("models")
    for name, save in SAVE.items():
        save(root / name)
    return {name: root / name for name in SAVE}


def run(root: Path, encoder: TextEncoder, **options: Any) -> TextSummary:
    dataset = open_dataset(root, "said") if (root / "said").exists() else captions_of(root)
    options = {"dtype": "float32", "device": "cpu", "progress": False, "batch_size": 3} | options
    return extract_text(dataset, root, encoder, **options)


def rows(summary: TextSummary) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in FeatureSet.open(summary.path).rows().to_pylist()}


def library_features(folder: Path, text: str, max_tokens: int = 32) -> np.ndarray:
    """What transformers gives for a text by itself, without padding: (T, D)."""
    kind = T5EncoderModel if json.loads((folder / "config.json").read_text())["model_type"] == "t5" else AutoModel
    tokens = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=max_tokens, return_tensors="pt")
    with torch.no_grad():
        model = kind.from_pretrained(folder).eval()
        return model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state[0].numpy()


@pytest.mark.parametrize("shard_format", ["zarr", "hdf5"])
@pytest.mark.parametrize("kind", SAVE)
def test_features_are_those_of_each_caption_alone(
    kind: str, shard_format: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    most = 12
    summary = run(tmp_path, load_text_encoder(str(folders[kind]), most), shard_format=shard_format)
    assert summary.status == {"ok": len(WITH_WORDS), "empty": 1}
    assert summary.exit_code == 0
    stored = FeatureSet.open(summary.path)
    assert stored.card.recipe.kind == "text"
    for number in WITH_WORDS:
        expected = library_features(folders[kind], CAPTIONS[number], most)
        values, _ = stored.read([f"cap{number}"])
        assert values.shape == expected.shape
        np.testing.assert_allclose(values, expected, atol=1e-5 * np.abs(expected).max())
        times = np.arange(len(expected))
        np.testing.assert_array_equal(stored.read_timestamps([f"cap{number}"]), np.stack([times, times + 1], 1))


def test_the_real_t5_tokenizer_cuts_and_ends_as_the_library_does(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    save_t5(folder, shared_data / "t5_tokenizer")
    summary = run(tmp_path / "features", load_text_encoder(str(folder), 8))
    stored = FeatureSet.open(summary.path)
    for number in WITH_WORDS:
        expected = library_features(folder, CAPTIONS[number], 8)
        values, _ = stored.read([f"cap{number}"])
        np.testing.assert_allclose(values, expected, atol=1e-5 * np.abs(expected).max())
    assert rows(summary)["cap2"]["message"].startswith("cut: 8 of ")
    assert rows(summary)["cap3"]["message"] == ""


@pytest.mark.skipif(importlib.util.find_spec("all_minilm_l6_v2") is None, reason="the MiniLM package is not installed")
def test_the_packaged_minilm_puts_like_sentences_together(tmp_path: Path) -> None:
    token_level = load_text_encoder("minilm")
    assert token_level.name == "hf:sentence-transformers/all-MiniLM-L6-v2"
    assert (token_level.dim, token_level.max_tokens) == (384, 32)
    pooled = load_text_encoder("minilm", pooling="mean")
    assert pooled.weights_hash == token_level.weights_hash
    captions_of(tmp_path, ["A dog runs over grass.", "a puppy is running on the lawn", "an orchestra plays Brahms"])
    stored = FeatureSet.open(run(tmp_path, pooled).path)
    tokens = FeatureSet.open(run(tmp_path, token_level).path)
    vectors = [stored.read([f"cap{number}"])[0][0] for number in range(3)]
    for number, vector in enumerate(vectors):
        np.testing.assert_allclose(tokens.read([f"cap{number}"])[0].mean(0), vector, atol=1e-5)
    unit = np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.5 > unit[0] @ unit[2] + 0.2


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_pooled_captions_have_one_step(pooling: str, folders: dict[str, Path], tmp_path: Path) -> None:
    summary = run(tmp_path, load_text_encoder(str(folders["bert"]), pooling=pooling))
    stored = FeatureSet.open(summary.path)
    assert (stored.card.recipe.pooling, stored.card.recipe.layer) == (pooling, "last_hidden_state")
    for number in WITH_WORDS:
        tokens = library_features(folders["bert"], CAPTIONS[number])
        expected = tokens.mean(0) if pooling == "mean" else tokens[0]
        np.testing.assert_allclose(stored.read([f"cap{number}"])[0], expected[None], atol=1e-5)
        np.testing.assert_array_equal(stored.read_timestamps([f"cap{number}"]), [[0, len(tokens)]])


def test_an_open_clip_tower_gives_its_embedding(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-clip"
    folder.mkdir()
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    encoder = load_text_encoder(f"open_clip:{folder}")
    assert (encoder.name, encoder.max_tokens) == ("open_clip:tiny-clip", 16)
    assert isinstance(encoder, TextTower)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert encoder.visual_hash == load_backbone(f"open_clip:{folder}").weights_hash
    captions_of(tmp_path / "features", [*CAPTIONS, "hello!", "\u00ad"])
    summary = run(tmp_path / "features", encoder)
    stored = FeatureSet.open(summary.path)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    for number in [*WITH_WORDS, len(CAPTIONS)]:
        text = [*CAPTIONS, "hello!"][number]
        with torch.no_grad():
            expected = model.encode_text(tokenizer([text])).numpy()
        np.testing.assert_allclose(stored.read([f"cap{number}"])[0], expected, atol=1e-5)
    assert stored.read_timestamps(["cap7"]).tolist() == [[0, 4]]  # start, hello, !, end
    assert rows(summary)["cap2"]["message"].startswith("cut: 16 of 2")
    # the visual tower has no part in it
    with torch.no_grad():
        model.visual.proj.add_(1.0)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    assert load_text_encoder(f"open_clip:{folder}").weights_hash == encoder.weights_hash
    for options, says in (((20,), "always reads 16"), ((None, "mean"), "one embedding a text")):
        with pytest.raises(UsageError, match=says):
            load_text_encoder(f"open_clip:{folder}", *options)


def test_nothing_is_done_twice_and_changed_texts_are_done_again(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = Counted(str(folders["bert"]))
    assert run(tmp_path, encoder, limit=2).status == {"ok": 2}
    assert run(tmp_path, encoder).status == {"ok": 6, "empty": 1}
    assert encoder.done() == 6
    before = sorted(Path(run(tmp_path, encoder).path).rglob("*"))
    assert encoder.done() == 0
    assert sorted(Path(run(tmp_path, encoder).path).rglob("*")) == before

    texts = {f"cap{number}": text for number, text in enumerate(CAPTIONS)}
    captions_of(tmp_path, texts | {"cap1": "two red squares spin", "cap4": "a ball", "more": "blue star"})
    summary = run(tmp_path, encoder)
    assert summary.status == {"ok": 8}
    assert encoder.done() == 3
    stored = FeatureSet.open(summary.path)
    for caption, text in (("cap1", "two red squares spin"), ("cap4", "a ball"), ("cap0", CAPTIONS[0])):
        expected = library_features(folders["bert"], text)
        np.testing.assert_allclose(stored.read([caption])[0], expected, atol=1e-5 * np.abs(expected).max())
        hashes = {row.caption_id: row.hash for row in open_dataset(tmp_path, "said").split_captions("p", "train")}
        assert rows(summary)[caption]["source_hash"] == hashes[caption]

    captions_of(tmp_path, texts | {"cap1": " "})  # features of a text that is no more: told as what the text is
    for _ in range(2):
        assert run(tmp_path, encoder).status == {"ok": 5, "empty": 2}
    assert encoder.done() == 0


def test_captions_are_chosen_by_protocol_and_split(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = load_text_encoder(str(folders["bert"]))
    assert run(tmp_path, encoder, protocol="p", split="test").captions == 3  # clips 1 and 3
    assert run(tmp_path, encoder, split="train").captions == 4
    assert run(tmp_path, encoder, protocol="p").status == {"ok": 6, "empty": 1}
    for options, says in (
        ({"split": "dev"}, "no split 'dev'; it has test, train"),
        ({"protocol": "q"}, "no protocol 'q'; it has p"),
        ({"limit": 0}, "limit of 0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"precision": "int8"}, "int8"),
        ({"device": "tpu"}, "tpu"),
        ({"shard_format": "tar"}, "tar"),
        ({"dtype": "int8"}, "int8"),
    ):
        with pytest.raises(UsageError, match=says):
            run(tmp_path / "other", encoder, **options)
        assert not (tmp_path / "other" / "said" / "features").exists()


def test_a_dataset_without_captions_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    captions_of(tmp_path, {})
    with pytest.raises(UsageError, match="'said' has no caption to read"):
        run(tmp_path, load_text_encoder(str(folders["bert"])))


def test_values_that_do_not_fit_are_that_captions_failure(tmp_path: Path) -> None:
    model = save_bert(tmp_path / "bert")
    with torch.no_grad():
        model.encoder.layer[-1].output.LayerNorm.bias[0] = 1e5
    model.save_pretrained(tmp_path / "bert")
    summary = run(tmp_path / "features", load_text_encoder(str(tmp_path / "bert")), dtype="float16")
    assert summary.status == {"empty": 1, "overflow": 6}
    assert summary.exit_code == 1
    assert "does not fit float16" in rows(summary)["cap0"]["message"]


def test_a_text_without_a_token_is_empty(folders: dict[str, Path], tmp_path: Path) -> None:
    captions_of(tmp_path, ["a ball", "\u200b\u200b"])  # WordPiece drops these
    summary = run(tmp_path, load_text_encoder(str(folders["bert"])))
    assert summary.status == {"ok": 1, "empty": 1}
    assert rows(summary)["cap1"]["message"] == "the tokenizer finds no token in it"


@pytest.mark.parametrize("stop", ["ctrl-c", "sigterm"])
def test_a_stopped_run_keeps_what_was_complete(stop: str, folders: dict[str, Path], tmp_path: Path) -> None:
    captions_of(
        tmp_path, [f"{text} {word}" for word in ("red", "blue", "green") for text in CAPTIONS for _ in range(2)]
    )
    encoder = Counted(str(folders["bert"]))

    def interrupt(batch: int) -> None:
        if batch == 20:
            if stop == "sigterm":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                raise KeyboardInterrupt

    encoder.before = interrupt
    with pytest.raises(
        Interrupted, match=r"of 42 captions the store has 16 ok, in .*; the same command resumes"
    ) as told:
        run(tmp_path, encoder, batch_size=1)
    assert told.value.exit_code == 130
    encoder.before, encoder.batches = None, []
    assert run(tmp_path, encoder).status == {"ok": 42}
    assert encoder.done() == 26


def test_batches_shrink_when_memory_runs_out(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = Counted(str(folders["bert"]))
    encoder.room = 3
    assert run(tmp_path, encoder, batch_size=6).status == {"ok": 6, "empty": 1}
    assert encoder.batches == [3, 3]
    encoder.room = 0
    with pytest.raises(SupportsetError, match=r"a caption of \d+ tokens does not fit into the device's memory"):
        run(tmp_path / "other", encoder)


def test_whatever_decides_the_features_decides_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    name = str(folders["bert"])
    save_bert(tmp_path / "bert", seed=1)
    cased = tmp_path / "cased" / "bert"
    save_bert(cased)
    tokenizer = json.loads((cased / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (cased / "tokenizer.json").write_text(json.dumps(tokenizer))
    variants = [
        run(tmp_path, load_text_encoder(name)),
        run(tmp_path, load_text_encoder(name), dtype="float16"),
        run(tmp_path, load_text_encoder(name, 16)),
        run(tmp_path, load_text_encoder(name, pooling="mean")),
        run(tmp_path, load_text_encoder(str(tmp_path / "bert"))),  # other weights under the same name
        run(tmp_path, load_text_encoder(str(cased))),  # another tokenizer with the same vocabulary
        run(tmp_path, load_text_encoder(str(folders["t5"]))),
    ]
    assert len({summary.feature_set for summary in variants}) == len(variants)
    again = run(tmp_path, load_text_encoder(f"bert@{name}", 32, "none"))
    assert again.feature_set == variants[0].feature_set
    assert (again.status, again.captions) == ({"ok": 6, "empty": 1}, 7)
    assert list(again.to_json()) == ["dataset", "feature_set", "path", "captions", "status", "seconds"]


def test_the_recorded_encoder_is_loaded_again_or_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    name = str(folders["t5"])
    recipe = FeatureSet.open(run(tmp_path, load_text_encoder(name, 9, "mean")).path).card.recipe
    encoder = load_recorded(recipe, name)
    assert (encoder.max_tokens, encoder.pooling, encoder.weights_hash) == (9, "mean", recipe.weights_hash)
    save_t5(tmp_path / "t5", seed=1)
    with pytest.raises(UsageError, match=r"is not the one that made the text features hf-t5-text-.*its weights is"):
        load_recorded(recipe, str(tmp_path / "t5"))
    with pytest.raises(UsageError, match=r"hf:t5.*not a local path and cannot be downloaded from the hub"):
        load_recorded(recipe)  # the recipe knows no folder
    imported = type(recipe).from_json(recipe.to_json() | {"backbone": "imported:mine"})
    with pytest.raises(UsageError, match="were imported: no encoder is known"):
        load_recorded(imported, name)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded as the weights of text"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "cannot be loaded as the weights"),
        (lambda folder: ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16,
                                           patch_size=8)).save_pretrained(folder), "reads no text|no plain text"),
    ],
)  # fmt: skip
def test_what_is_no_encoder_is_one_line(spoil: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    save_bert(tmp_path / "bert")
    spoil(tmp_path / "bert")
    with pytest.raises(UsageError, match=says) as told:
        load_text_encoder(str(tmp_path / "bert"))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./nothing", "there is no such folder"),
        ("timm:resnet18", "'timm:resnet18' is unknown.*families are hf, open_clip"),
        ("bert@nowhere", "there is no file or folder 'nowhere'"),
        ("open_clip:ViT-B-33/openai", "did you mean"),
    ],
)
def test_unknown_names_are_one_line(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_text_encoder(name)


@pytest.mark.parametrize(("kind", "most"), [("bert", 40), ("roberta", 19), ("t5", None)])
def test_texts_are_as_long_as_the_model_has_positions(kind: str, most: int | None, folders: dict[str, Path]) -> None:
    encoder = load_text_encoder(str(folders[kind]), most or 600)
    (tokens,) = encoder.tokenize(["ball " * 700])
    assert len(tokens.ids) == (most or 600)
    assert encoder.forward([tokens.ids]).isfinite().all()
    for wrong in (0 if most is None else most + 1, 1):
        with pytest.raises(UsageError, match=f"max_tokens = {wrong}"):
            load_text_encoder(str(folders[kind]), wrong)


class Counted(TextEncoder):
    """An encoder that remembers its batches, may have little memory, and may be disturbed."""

    def __init__(self, name: str) -> None:
        inner = load_text_encoder(name)
        super().__init__(
            inner.model, name=inner.name, weights=inner.weights, dim=inner.dim, layer=inner.layer,
            pooling=inner.pooling, tokenizer=inner.tokenizer_json, max_tokens=inner.max_tokens, pad_id=inner.pad_id,
        )  # fmt: skip
        self.tokenize, self.encode = inner.tokenize, inner.encode  # type: ignore[method-assign]
        self.batches: list[int] = []
        self.room: int | None = None
        self.before: Callable[[int], None] | None = None

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        raise AssertionError("the inner encoder's")

    def encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the inner encoder's")

    def forward(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        if self.before is not None:
            self.before(len(self.batches))
        if self.room is not None and len(sequences) > self.room:
            raise torch.OutOfMemoryError
        self.batches.append(len(sequences))
        return super().forward(sequences)

    def done(self) -> int:
        """Captions computed since it was asked last."""
        count, self.batches = sum(self.batches), []
        return count
