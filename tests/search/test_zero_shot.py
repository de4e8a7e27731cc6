"""Retrieval without training: the scores are those of the pair's own library, and the result says what they are."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import ArrayLike, NDArray

from supportset.commands.main import cli
from supportset.search.text_weighted import TextWeighted
from supportset.search.zero_shot import ZeroShot, open_zero_shot
from supportset.store.errors import UsageError
from supportset.store.format.dataset import open_dataset, write_dataset
from supportset.store.read.catalog import find_feature_set
from tests.extract.backbones.hf_models import MODELS, saved
from tests.extract.pairs import PAIRS, library_texts, save_open_clip, save_pair
from tests.search.untrained import TEXTS, mean_scores, open_clip_steps, open_clip_texts, plant, transformers_steps, unit

pytestmark = pytest.mark.slow

CLIPS, SAID = list(TEXTS), list(TEXTS.values())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store with the features of a tiny CLIP, and its folder."""
    root = tmp_path_factory.mktemp("pair")
    save_pair("clip", root / "tiny")
    plant(root / "features", f"hf:{root / 'tiny'}", missing=(CLIPS[3],))
    return root / "features", root / "tiny"


def scores_of(retriever: ZeroShot, texts: list[str]) -> np.ndarray:
    """What `search` gives for each text and clip: (N, C)."""
    found = retriever.open_gallery().search(texts, 100)
    return np.array([[{hit.clip_id: hit.score for hit in hits}[clip] for clip in CLIPS] for hits in found])


def closeness(found: np.ndarray, expected: np.ndarray) -> float:
    assert np.ptp(expected) > 0.02  # scores that do not differ would show nothing
    return float(np.abs(found - expected).max())


@pytest.mark.parametrize("kind", PAIRS)
def test_scores_are_those_of_transformers_alone(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    model = save_pair(kind, folder)
    plant(tmp_path, f"hf:{folder}")
    steps = transformers_steps(kind, model)
    expected = mean_scores(library_texts(kind, folder, model, SAID), steps)
    found = scores_of(open_zero_shot("films/hf-tiny", tmp_path, device="cpu"), SAID)
    difference = closeness(found, expected)
    print(f"{kind}: {difference:.1e}")
    assert difference < 2 * MODELS[kind].tolerance


def test_scores_are_those_of_open_clip_alone(tmp_path: Path) -> None:
    save_open_clip(tmp_path / "tiny")
    plant(tmp_path, f"open_clip:{tmp_path / 'tiny'}")
    expected = mean_scores(open_clip_texts(tmp_path / "tiny", SAID), open_clip_steps(tmp_path / "tiny"))
    difference = closeness(scores_of(open_zero_shot("films/open_clip", tmp_path, device="cpu"), SAID), expected)
    print(f"open_clip: {difference:.1e}")
    assert difference < 2e-5


def test_the_result_says_everything_and_a_missing_clip_is_a_miss(pair: tuple[Path, Path], tmp_path: Path) -> None:
    store, _ = pair
    retriever = open_zero_shot("films/hf-tiny", store, device="cpu")
    result = retriever.evaluate(out=tmp_path / "scores")
    scores = mean_scores(retriever.encode_text(SAID), library_steps(store))
    ranks = [
        1 + sum(row[other] >= row[own] for other in range(5) if other not in (own, 3)) for own, row in enumerate(scores)
    ]
    ranks[3] = 10**6
    assert result["t2v"]["R@1"] == pytest.approx(100 * np.mean(np.array(ranks) == 1))
    assert result["t2v"]["MdR"] == np.median(np.minimum(ranks, 6))
    card = find_feature_set(store, "films/hf-tiny").card.recipe
    told = {
        key: result[key] for key in ("protocol", "split", "dataset", "gallery", "queries", "missing", "selected_by")
    }
    assert told == {
        "protocol": "films", "split": "test", "dataset": "films", "gallery": 5, "queries": 5, "missing": 1,
        "selected_by": "nothing: no training",
    }  # fmt: skip
    assert result["features"] == [card.folder]
    assert result["weights"] == {"visual": card.weights_hash, "text": retriever.tower.weights_hash}
    assert (result["templates"], result["pooling"], result["temperature"]) == (["{}"], "mean", None)
    assert "pessimistic" in result["tie_rule"]
    assert set(result["intervals"]) == {"t2v", "v2t"}
    written = json.loads((tmp_path / "scores" / "films-test.json").read_text())
    assert written["clips_without_features"] == [CLIPS[3]]
    assert (tmp_path / "scores" / "films-test-ranks.parquet").exists()


def test_stored_embeddings_of_the_tower_are_read_if_they_are_of_all_captions(tmp_path: Path) -> None:
    save_pair("clip", tmp_path / "tiny")
    store = tmp_path / "store"
    plant(store, f"hf:{tmp_path / 'tiny'}")
    computed = open_zero_shot("films/hf-tiny", store, device="cpu").evaluate()
    assert computed["text_features"] is None
    asked = ("extract-text", "films", "--encoder", "tower:hf-tiny", "--store", store, "--device", "cpu", "--dtype")
    assert run(*asked, "float32", "--limit", "3")[0] == 0
    assert open_zero_shot("films/hf-tiny", store, device="cpu").evaluate()["text_features"] is None
    assert run(*asked, "float32")[0] == 0
    read = open_zero_shot("films/hf-tiny", store, device="cpu").evaluate()
    assert "-text-" in read.pop("text_features")
    assert read == {key: value for key, value in computed.items() if key != "text_features"}
    template = open_zero_shot("films/hf-tiny", store, device="cpu", templates=["a {}"]).evaluate()
    assert template["text_features"] is None


def test_clips_whose_videos_are_gone_are_left_out(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(pair[0], store := tmp_path / "features")
    old = open_dataset(store, "films")
    tables: dict[str, Any] = {"clips": old.clips, "captions": old.captions, "splits": old.splits}
    write_dataset(store, "films", **tables, protocols=old.info["protocols"], sources=[], gone=[CLIPS[0]])
    retriever = open_zero_shot("films/hf-tiny", store, device="cpu")
    gallery = retriever.open_gallery()
    assert gallery.left_out == 1
    assert [sorted(hit.clip_id for hit in gallery.search([SAID[0]], 100)[0])] == [[CLIPS[1], CLIPS[2], CLIPS[4]]]
    result = retriever.evaluate(out=tmp_path / "scores")
    assert (result["gallery"], result["missing"], result["left_out"]) == (5, 2, 1)


def library_steps(store: Path) -> list[np.ndarray]:
    """Unit steps of all clips as stored; of the missing one anything."""
    features = find_feature_set(store, "films/hf-tiny")
    return [unit(features.read([clip])[0] if clip in features else np.ones((1, features.dim))) for clip in CLIPS]


def test_templates_are_averaged_as_unit_vectors(pair: tuple[Path, Path]) -> None:
    store, _ = pair

    def encode(templates: Sequence[str], texts: list[str]) -> NDArray[np.float32]:
        return open_zero_shot("films/hf-tiny", store, device="cpu", templates=templates).encode_text(texts)

    templates = ("a video of {}", "{} is seen")
    each = [encode([template], SAID) for template in templates]
    both = encode(templates, [*SAID, "  "])
    np.testing.assert_allclose(each[0], encode([], [f"a video of {text}" for text in SAID]), atol=1e-6)
    np.testing.assert_allclose(both[:-1], unit(each[0] + each[1]), atol=1e-6)
    assert not both[-1].any()
    for wrong in ("a video", "{} and {}"):
        with pytest.raises(UsageError, match=r"put \{\} once, in the place of the text"):
            open_zero_shot("films/hf-tiny", store, templates=[wrong])


@pytest.mark.parametrize("temperature", [1e-4, 0.05, 1e4])
def test_each_text_weights_the_steps_of_a_clip(temperature: float, pair: tuple[Path, Path]) -> None:
    store, _ = pair
    retriever = open_zero_shot("films/hf-tiny", store, device="cpu", pooling="text-weighted", temperature=temperature)
    texts, present = retriever.encode_text(SAID), [0, 1, 2, 4]
    expected = np.zeros((5, 4))
    for column, steps in enumerate([library_steps(store)[number] for number in present]):
        for row, text in enumerate(texts):
            weights = np.exp((steps @ text - (steps @ text).max()) / temperature)
            expected[row, column] = unit((weights[:, None] * steps).sum(0)) @ text
    hits = retriever.open_gallery().search(SAID, 10)
    found = [[{hit.clip_id: hit.score for hit in row}[CLIPS[number]] for number in present] for row in hits]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if temperature > 1:
        mean = open_zero_shot("films/hf-tiny", store, device="cpu").open_gallery().search(SAID, 10)
        assert [[hit.clip_id for hit in row] for row in hits] == [[hit.clip_id for hit in row] for row in mean]
    result = retriever.evaluate()
    ranks = [1 + (expected[own, :] >= expected[own, column]).sum() - 1 for column, own in enumerate(present)]
    assert result["t2v"]["R@1"] == pytest.approx(100 * sum(rank == 1 for rank in ranks) / 5)
    assert (result["pooling"], result["temperature"]) == ("text-weighted", temperature)


def test_steps_that_cancel_each_other_score_zero() -> None:
    """Their weighted mean has no direction, however the rounding falls."""
    rng = np.random.default_rng(0)
    texts, vectors = unit(rng.normal(size=(50, 7))), unit(rng.normal(size=(50, 7)))
    steps = np.stack([vectors, -vectors], axis=1).reshape(-1, 7)
    offsets = np.arange(0, 101, 2)
    found = TextWeighted(1e18).of_steps(texts, steps, offsets)
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


def test_large_score_matrices_are_files_and_blocks_do_not_matter(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = open_zero_shot("films/hf-tiny", pair[0], device="cpu", pooling="text-weighted")
    texts, clips = retriever.encode_text(SAID), retriever.features.clip_ids
    assert retriever.weighting is not None
    whole = retriever.weighting.scores(texts, retriever.features, clips)
    mean = retriever.encode_stored(retriever.features, clips)
    for name, value in (("text_weighted._TEXTS", 2), ("text_weighted._IN_MEMORY", 8), ("retriever._VALUES", 80)):
        monkeypatch.setattr(f"supportset.search.{name}", value)
    np.testing.assert_array_equal(retriever.encode_stored(retriever.features, clips), mean)
    parts = retriever.weighting.scores(texts, retriever.features, clips)
    assert isinstance(parts, np.memmap)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_embeddings_are_kept_in_the_cache_and_nothing_is_written_to_the_store(
    pair: tuple[Path, Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pair("clip", tmp_path / "tiny")
    store = tmp_path / "store"
    plant(store, f"hf:{tmp_path / 'tiny'}")
    before = sorted(store.rglob("*"))
    embedded: list[int] = []
    original = ZeroShot.encode_clips

    def encode_clips(self: ZeroShot, clips: Sequence[ArrayLike]) -> NDArray[np.float32]:
        embedded.append(len(clips))
        return original(self, clips)

    monkeypatch.setattr(ZeroShot, "encode_clips", encode_clips)

    def ask() -> tuple[list[str], int]:
        gc.collect()  # rows in memory live as long as a gallery that uses them
        embedded.clear()
        hits = open_zero_shot("films/hf-tiny", store, device="cpu").open_gallery().search(SAID[:1])[0]
        return [hit.clip_id for hit in hits], sum(embedded)

    first = ask()
    assert first[1] == 5
    assert ask() == (first[0], 0)
    assert sorted(store.rglob("*")) == before
    shutil.rmtree(store)
    plant(store, f"hf:{tmp_path / 'tiny'}", missing=(CLIPS[0],))
    assert ask()[1] == 0  # what is kept of the other clips is used
    shutil.rmtree(cache)
    assert ask()[1] == 4
    shutil.rmtree(cache)
    cache.write_text("a file in the place of the folder")
    assert ask() == ask()
    assert ask()[1] == 4


def test_the_retriever_gives_unit_vectors_of_texts_clips_and_steps(pair: tuple[Path, Path]) -> None:
    retriever = open_zero_shot("films/hf-tiny", pair[0], device="cpu")
    clips = [np.full((2, 20), 3.0), np.eye(20)[:3]]
    assert retriever.encode_clips(clips).dtype == retriever.encode_text(["x"]).dtype == np.float32
    np.testing.assert_allclose(retriever.encode_clips(clips), unit(np.stack([clips[0][0], clips[1].sum(0)])), atol=1e-6)
    np.testing.assert_allclose(retriever.encode_steps(clips), unit(np.concatenate(clips)), atol=1e-6)
    assert retriever.encode_clips([]).shape == (0, 20)
    assert retriever.encode_text([]).shape == (0, 20)
    with pytest.raises(UsageError, match=r"clip 1: features of shape \(3, 7\), not \(T, 20\)"):
        retriever.encode_clips([np.ones((2, 20)), np.ones((3, 7))])


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    return result.exit_code, result.output


def test_commands(pair: tuple[Path, Path], tmp_path: Path) -> None:
    store, folder = pair
    asked = ("--zero-shot", "films/hf-tiny", "--store", store, "--device", "cpu")
    code, output = run("search", SAID[0], *asked, "--json", "--template", "a video of {}", "-k", "2")
    found = json.loads(output)
    assert code == 0
    assert len(found["hits"]) == 2
    assert found["retriever"]["templates"] == ["a video of {}"]
    code, output = run("eval", *asked, "--pooling", "text-weighted", "--out", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(output)["temperature"] == 0.1
    assert (tmp_path / "out" / "films-test.json").exists()
    code, output = run("eval", *asked)
    assert code == 0
    assert "queries   5 captions" in output
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert run("eval", *asked, "--encoder", f"hf:{moved}")[0] == 0
    save_pair("clip", moved, seed=1)
    code, output = run("eval", *asked, "--encoder", f"hf:{moved}")
    assert code == 2
    assert "is not the one that made the features" in output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval"], "give a RUN folder, or features of an encoder pair with --zero-shot"),
        (["eval", "runs/x", "--zero-shot", "films/hf"], "both the run runs/x and --zero-shot films/hf are given"),
        (["eval", "runs/x", "--template", "a {}"], "--template needs --zero-shot"),
        (["eval", "runs/x", "--out", "y"], "--out needs --zero-shot"),
        (["eval", "--embeddings", "t.npy", "v.npy", "--pooling", "mean"], "--pooling needs --zero-shot"),
        (["eval", "--zero-shot", "films/hf", "--dataset", "x"], "--dataset needs a RUN"),
        (["eval", "--zero-shot", "films/hf", "--temperature", "1"], "take the pooling text-weighted"),
        (["eval", "--zero-shot", "films/hf", "--pooling", "text-weighted", "--temperature", "0"], "number above 0"),
        (["eval", "--zero-shot", "films/hf", "--protocol", "x"], "has no protocol 'x'"),
        (["eval", "--zero-shot", "films/other"], "no feature set fits"),
        (["eval", "--zero-shot", "absent/hf"], "no features of a dataset 'absent'"),
        (["search"], "give a RUN and a QUERY in quotes"),
        (["search", "a ball"], "give a RUN folder, or features"),
        (["search", "runs/x", "a", "ball"], "put the text in quotes"),
        (["search", "runs/x", "a ball", "--zero-shot", "films/hf"], "both the run"),
        (["search", " ", "--zero-shot", "films/hf"], "is blank"),
        (["search", "a ball", "--zero-shot", "films/hf", "--protocol", "films"], "needs a --split"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], says: str, pair: tuple[Path, Path]) -> None:
    code, output = run(*words, "--store", pair[0], "--device", "cpu")
    assert code == 2
    assert says in output
    assert len(output.strip().splitlines()) == 1


def test_features_without_a_text_tower_name_one_that_has(tmp_path: Path) -> None:
    saved("dinov2", tmp_path / "dino")
    plant(tmp_path / "store", f"hf:{tmp_path / 'dino'}")
    code, output = run("eval", "--zero-shot", "films/hf-dino", "--store", tmp_path / "store", "--device", "cpu")
    assert code == 2
    assert "which has no text tower" in output
    assert "as open_clip:ViT-B-32" in output
