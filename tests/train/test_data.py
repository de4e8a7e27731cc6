"""Resident features, batches and epochs; splits, the hold-out and leakage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from supportset.evaluate.splits import Split, hold_out, leakage, read_split, source_videos
from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard
from supportset.store.format.dataset import Caption, write_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import feature_set_path, find_feature_set
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.mapped_shards import MappedShards
from supportset.store.read.resident import thinned
from supportset.store.write.writer import FeatureWriter
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.data.feature_sets import open_features
from supportset.train.data.source import open_run_data
from supportset.train.data.training_data import TokenTable, TrainingData
from tests.train.small_store import config, plant, recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("store")).root


@pytest.fixture(scope="module")
def features(root: Path) -> AlignedFeatures:
    return AlignedFeatures([find_feature_set(root, "small/planted")])


def training(features: AlignedFeatures, captions: list[Caption], **changes: object) -> TrainingData:
    clips = list(dict.fromkeys(caption.clip_id for caption in captions))
    tokens = [[number + 1] * (1 + number % 4) for number in range(len(captions))]
    settings = {"batch_size": 8, "per_epoch": "all", "seed": 3, **changes}
    text, labels = TokenTable(tokens, pad_id=0), TokenTable(tokens, pad_id=0, filling=-100)
    return TrainingData(captions, ClipFeatures(features, clips, 4), text, labels, **settings)  # type: ignore[arg-type]


def captions_of(clips: list[str], each: int) -> list[Caption]:
    return [Caption(f"{clip}#{i}", clip, f"text {i} of {clip}") for clip in clips for i in range(each)]


@pytest.mark.parametrize(("length", "max_steps"), [(3, 5), (5, 5), (6, 5), (11, 5), (100, 7), (7, 1)])
def test_thinning_keeps_even_and_different_steps(length: int, max_steps: int) -> None:
    kept = thinned(length, max_steps)
    assert len(kept) == min(length, max_steps)
    assert len(set(kept.tolist())) == len(kept)
    assert kept.min() >= 0
    assert kept.max() < length
    if length > max_steps > 1:
        gaps = np.diff(kept)
        assert gaps.max() - gaps.min() <= 1
        assert abs(kept[0] - (length - 1 - kept[-1])) <= 1  # as far from the start as from the end


def test_tokens_are_padded_to_the_longest_of_the_batch() -> None:
    table = TokenTable([[5, 6, 7], [8], [], [9, 9]], pad_id=1)
    ids, mask = table.pad(np.array([3, 1]))
    assert ids.tolist() == [[9, 9], [8, 1]]
    assert mask.tolist() == [[True, True], [True, False]]
    ids, mask = table.pad(np.array([2]))
    assert ids.tolist() == [[1]]
    assert mask.tolist() == [[True]]  # never a caption without any token
    labels = TokenTable([[5, 6], [], [7]], pad_id=1, filling=-100)
    assert labels.pad(np.array([0, 1]))[0].tolist() == [[5, 6], [1, -100]]


def test_a_batch_holds_each_clip_once_and_every_caption_points_at_its_own(features: AlignedFeatures) -> None:
    captions = captions_of(features.clip_ids[:5], 4)
    data = training(features, captions)
    rows = np.array([17, 0, 3, 9, 1])
    batch = data.batch(rows)
    assert sorted(set(batch.clip_ids)) == sorted(batch.clip_ids)
    assert [batch.clip_ids[i] for i in batch.caption_clip] == [captions[row].clip_id for row in rows]
    assert batch.caption_ids == [captions[row].caption_id for row in rows]
    for position, row in enumerate(rows):
        tokens = [row + 1] * (1 + row % 4)
        assert batch.text_ids[position][batch.text_mask[position]].tolist() == tokens
        assert batch.labels is not None
        assert batch.labels[position].tolist() == tokens + [-100] * (batch.labels.shape[1] - len(tokens))
    for clip, values, mask in zip(batch.clip_ids, batch.features, batch.feature_mask, strict=True):
        stored, _ = features.read([clip])
        assert np.array_equal(values[mask].numpy(), stored[thinned(len(stored), 4)])


def test_features_on_disk_are_asked_for_two_batches_ahead_and_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    blocks = 0
    ask, read = MappedShards.ask, FeatureSet.read_rows

    def disk(mapped: MappedShards, places: np.ndarray) -> dict[int, list[tuple[int, int]]]:
        nonlocal blocks
        blocks += 100 * len(places)  # nothing ever lies in memory
        return {}

    def asking(mapped: MappedShards, places: np.ndarray) -> bool:
        told.append("ask")
        return ask(mapped, places)

    def reading(stored: FeatureSet, *arguments: object) -> object:
        told.append("read")
        return read(stored, *arguments)  # type: ignore[arg-type]

    stored = find_feature_set(root, "small/planted")
    data = training(AlignedFeatures([stored]), captions_of(stored.clip_ids[:40], 1))
    data.features = ClipFeatures(AlignedFeatures([stored]), data.features.clip_ids, 4, place="disk", buffers=1)
    monkeypatch.setattr("supportset.store.read.mapped_shards.disk_reads", lambda: blocks)
    monkeypatch.setattr(MappedShards, "_ranges", disk)
    monkeypatch.setattr(MappedShards, "ask", asking)
    monkeypatch.setattr(FeatureSet, "read_rows", reading)
    for epoch in range(2):  # copies come fast, and yet from a disk: the next epoch asks again
        told.clear()
        assert len(list(data.batches(epoch))) == 5
        assert told == [*["ask"] * 3, "read", *["ask", "read"] * 2, "read", "read"]


def test_an_epoch_of_all_shows_every_caption_once(features: AlignedFeatures) -> None:
    captions = captions_of(features.clip_ids[:12], 3)
    data = training(features, captions)
    shown = [caption for batch in data.batches(0) for caption in batch.caption_ids]
    assert Counter(shown) == Counter(caption.caption_id for caption in captions)
    assert data.steps_per_epoch == len(data.plan(0)) == 5
    assert [len(rows) for rows in data.plan(0)] == [8, 8, 8, 8, 4]


def test_an_epoch_of_one_shows_a_random_caption_of_every_clip(features: AlignedFeatures) -> None:
    captions = captions_of(features.clip_ids[:10], 3)
    data = training(features, captions, per_epoch="one")
    seen: Counter[str] = Counter()
    for epoch in range(60):
        rows = np.concatenate(data.plan(epoch))
        assert sorted(captions[row].clip_id for row in rows) == sorted(features.clip_ids[:10])
        seen.update(captions[row].caption_id for row in rows)
    assert set(seen) == {caption.caption_id for caption in captions}
    assert min(seen.values()) >= 8  # of 60 with 20 expected: about 3.3 standard deviations
    assert data.steps_per_epoch == 2


def test_epochs_are_a_function_of_seed_and_number_and_go_on_in_the_middle(features: AlignedFeatures) -> None:
    captions = captions_of(features.clip_ids[:12], 3)
    first, again, other = (training(features, captions, seed=seed) for seed in (3, 3, 4))
    order = [batch.caption_ids for batch in first.batches(1)]
    assert order == [batch.caption_ids for batch in again.batches(1)]
    assert order[2:] == [batch.caption_ids for batch in first.batches(1, start=2)]
    assert order != [batch.caption_ids for batch in first.batches(0)]
    assert order != [batch.caption_ids for batch in other.batches(1)]


def test_a_batch_of_one_clip_is_left_out(features: AlignedFeatures) -> None:
    captions = captions_of(features.clip_ids[:3], 3)
    data = training(features, captions, batch_size=8)  # the last caption stands alone
    assert [len(rows) for rows in data.plan(0)] == [8]
    data = training(features, captions_of(features.clip_ids[:1], 4), batch_size=4)
    assert data.plan(0) == []


def test_training_leaves_out_clips_without_features_and_says_so(tmp_path: Path) -> None:
    missing = ("clip00-0", "clip05-1", "clip07-2")  # the last one is of the test split
    plant(tmp_path, missing=missing)
    data = open_run_data(config(), tmp_path)
    assert data.record["train"]["clips_without_features"] == ["clip00-0", "clip05-1"]
    assert data.record["train"]["captions_without_features"] == 4
    assert not {"clip00-0", "clip05-1"} & set(data.train.clip_ids)
    assert any("2 training clips without features (clip00-0, clip05-1)" in note for note in data.notes)
    assert data.record["train"]["clips"] + data.record["validation"]["clips"] == 126


def test_the_hold_out_goes_by_source_and_is_the_same_for_every_seed(root: Path) -> None:
    first = open_run_data(config(seed=0), root)
    other = open_run_data(config(seed=9), root)
    assert first.validation is not None
    assert other.validation is not None
    assert first.validation.clip_ids == other.validation.clip_ids
    sources = source_videos(first.dataset)
    held = {sources[clip] for clip in first.validation.clip_ids}
    assert not held & {sources[clip] for clip in first.train.clip_ids}
    assert 0.08 * 128 <= len(first.validation.clip_ids) <= 0.1 * 128
    assert {caption.clip_id for caption in first.validation.captions} == set(first.validation.clip_ids)
    assert not set(first.validation.clip_ids) & set(first.dataset.split_clips("planted", "test"))


def small_split(sizes: list[int]) -> tuple[Split, dict[str, str]]:
    sources = {f"c{film}-{i}": f"film{film}" for film, size in enumerate(sizes) for i in range(size)}
    return Split("train", tuple(sources), tuple(captions_of(list(sources), 1)), frozenset()), sources


@pytest.mark.parametrize("seed", range(5))
def test_a_hold_out_never_exceeds_its_share_unless_no_source_is_that_small(seed: int) -> None:
    split, sources = small_split([50, 1, 1, 2, 3, 43])
    rest, held = hold_out(split, sources, 0.05, seed)
    assert 1 <= len(held.clip_ids) <= 5
    assert sorted(rest.clip_ids + held.clip_ids) == sorted(split.clip_ids)
    assert len(rest.captions) + len(held.captions) == len(split.captions)
    split, sources = small_split([50, 30])
    assert len(hold_out(split, sources, 0.05, seed)[1].clip_ids) == 30


def test_clips_of_one_source_cannot_be_held_out() -> None:
    split, sources = small_split([20])
    with pytest.raises(UsageError, match="come from one source video"):
        hold_out(split, sources, 0.1, 0)


def test_leakage_counts_words_and_sources() -> None:
    train = Split("train", ("a", "b"), (Caption("1", "a", "a dog runs"), Caption("2", "b", "a cat")), frozenset())
    test = Split(
        "test",
        ("c", "d", "e"),
        (Caption("3", "c", "a dog runs"), Caption("4", "d", "A dog runs"), Caption("5", "e", "a cat")),
        frozenset(),
    )
    sources = {"a": "x", "b": "b", "c": "x", "d": "y", "e": "e"}
    assert leakage(train, test, sources) == {
        "queries": 3,
        "verbatim_queries": 2,
        "clips": 3,
        "shared_source_clips": 1,
    }


def test_leakage_of_the_planted_world_is_told(root: Path) -> None:
    data = open_run_data(config(), root)
    leak = data.record["leakage"]["test"]
    assert leak["queries"] == 128
    assert leak["verbatim_queries"] > 100  # the test clips' sentences are those of the training clips, by construction
    assert leak["shared_source_clips"] == 0
    assert data.record["leakage"]["holdout"]["shared_source_clips"] == 0
    assert any("test queries are word for word training captions" in note for note in data.notes)


def test_what_leaks_into_msrvtt_1ka_is_what_was_measured(shared_data: Path, tmp_path: Path) -> None:
    from supportset.extract.readers import get_reader
    from supportset.store.format.dataset import write_dataset

    read = get_reader("msrvtt").read(shared_data / "msrvtt")
    tables = {name: [vars_of(row) for row in getattr(read, name)] for name in ("clips", "captions", "splits")}
    dataset = write_dataset(tmp_path, "msrvtt", **tables, protocols=read.protocols, sources=read.sources)
    clips = {row["clip_id"] for row in tables["clips"]}
    train, test = (read_split(dataset, "msrvtt-1ka-9k", split, clips) for split in ("train", "test"))
    leak = leakage(train, test, source_videos(dataset))
    assert leak == {"queries": 1000, "verbatim_queries": 107, "clips": 1000, "shared_source_clips": 372}


def vars_of(row: object) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "absent"}, "no dataset 'absent'; there are small"),
        ({"features": ["small/nothing"]}, "no feature set fits 'small/nothing'"),
        ({"features": ["nothing"]}, "no feature set fits 'small/nothing'"),
        ({"protocol": "other"}, "no protocol 'other'; it has planted"),
        ({"train_split": "trian"}, "no split 'trian'; it has train, test, empty"),
        ({"train_split": "empty"}, "split 'empty' of protocol 'planted' is empty"),
        ({"validation_split": "test"}, "never selected on a test split"),
        ({"validation_split": "train"}, "is the training split"),
        ({"validation_split": "Test"}, "never selected on a test split"),
        ({"validation_split": "holdout"}, "give the dataset's split another name"),
        ({"holdout": 0.0}, "needs validation clips"),
    ],
)
def test_a_wrong_name_is_one_line(root: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        open_run_data(config(data=changes), root)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_validation_shares_no_clip_with_training_and_none_with_the_test_gallery(tmp_path: Path) -> None:
    clips = [f"clip{number}" for number in range(6)]
    parts = {"train": clips[:3], "val": clips[3:4], "test": clips[4:], "all": clips, "rest": clips[3:5]}
    captions = [{"caption_id": f"{clip}#0", "clip_id": clip, "text": f"about {clip}"} for clip in clips]
    write_small(tmp_path, captions, parts)
    assert open_run_data(config(data={"validation_split": "val"}), tmp_path).record["validation"]["clips"] == 1
    for changes, message in (
        ({"train_split": "all", "validation_split": "val"}, "1 of its 1 clips are also of split 'all', trained on"),
        ({"validation_split": "rest"}, r"1 of its 2 clips are also of split 'test' \(the first: 'clip4'\)"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            open_run_data(config(data=changes), tmp_path)
        assert "\n" not in str(error.value)


def test_a_clip_with_blank_captions_alone_is_named(tmp_path: Path) -> None:
    said = {"clip0": "one", "clip1": "two", "clip2": " ", "clip3": "four"}
    captions = [{"caption_id": f"{clip}#0", "clip_id": clip, "text": text} for clip, text in said.items()]
    write_small(tmp_path, captions, {"train": ["clip0", "clip1", "clip2", "clip4"], "val": ["clip3"]})
    data = open_run_data(config(data={"validation_split": "val"}), tmp_path)
    assert data.train.clip_ids == ("clip0", "clip1")
    assert data.record["train"]["blank_captions"] == 1
    assert data.record["train"]["clips_without_captions"] == ["clip2", "clip4"]
    assert "left out: 2 training clips without captions" in data.notes


def write_small(root: Path, captions: list[dict[str, str]], parts: dict[str, list[str]]) -> None:
    """A dataset ``small`` with these captions and splits, and one step of features for every clip of a split."""
    clips = sorted({clip for members in parts.values() for clip in members})
    write_dataset(
        root,
        "small",
        clips=[{"clip_id": clip, "path": f"{clip}.mp4"} for clip in clips],
        captions=captions,
        splits=[
            {"protocol": "planted", "split": name, "clip_id": clip}
            for name, members in parts.items()
            for clip in members
        ],
        protocols={"planted": dict.fromkeys(parts)},
        sources=[],
    )
    card = FeatureCard(recipe(), {})
    with FeatureWriter(feature_set_path(root, "small", card.recipe), card) as writer:
        for number, clip in enumerate(clips):
            writer.add(clip, np.full((1, card.recipe.dim), float(number)), np.array([[0.0, 1.0]]))


def test_words_that_fit_two_sets_are_refused_and_longer_ones_are_not(tmp_path: Path) -> None:
    plant(tmp_path)
    plant(tmp_path, of=recipe(backbone="planted:others"))
    with pytest.raises(UsageError, match="several feature sets fit"):
        open_run_data(config(), tmp_path)
    assert open_features(tmp_path, "small", "planted:concepts").card.recipe == recipe()


def test_features_of_another_dataset_are_refused(tmp_path: Path) -> None:
    plant(tmp_path)
    plant(tmp_path, "other")
    with pytest.raises(UsageError, match="must be of one dataset"):
        open_run_data(config(data={"features": ["other/planted"]}), tmp_path)


def test_a_split_none_of_whose_clips_has_features_is_refused(tmp_path: Path) -> None:
    store = plant(tmp_path)
    plant(tmp_path, missing=tuple(store.dataset.split_clips("planted", "train")), of=recipe(backbone="planted:tests"))
    with pytest.raises(UsageError, match="none of the 128 clips of split 'train'"):
        open_run_data(config(data={"features": ["planted:tests"]}), tmp_path)


def test_two_feature_sets_stand_side_by_side(tmp_path: Path) -> None:
    plant(tmp_path)
    plant(tmp_path, of=recipe(backbone="planted:others"), missing=("clip00-0",))
    data = open_run_data(config(data={"features": ["planted:concepts", "planted:others"]}), tmp_path)
    assert data.features.dim == 48
    assert data.record["train"]["clips_without_features"] == ["clip00-0"]
    assert [entry["hash"] for entry in data.record["features"]] == [
        recipe().hash,
        recipe(backbone="planted:others").hash,
    ]
