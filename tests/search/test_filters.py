"""Filters: which clips fit conditions on the columns of the tables, and on what is known of their files."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from supportset.search.filters import ClipColumns, parse_filter
from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard
from supportset.store.format.dataset import write_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter, Source
from tests.search.films import films_recipe

PATHS = {"a": "trip/day 1/a.mp4", "b": "trip/b.mp4", "c": "c.jpg", "d": None}
DAYS = {"a": (2024, 5, 31), "b": (2024, 6, 1), "c": (2023, 1, 1), "d": (2024, 6, 30)}
LENGTHS = {"a": 3, "b": 12, "c": 1, "d": 5}


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> ClipColumns:
    root = tmp_path_factory.mktemp("filters")
    captions = [("a", "A dog runs", None), ("a", "it barks", None), ("b", "a cat", "other"), ("d", "Rain", None)]
    attributes = [("a", "year", "1999"), ("b", "year", "2001.5"), ("a", "genre", "news"),
                  ("a", "post", "7106594312292453675"), ("b", "post", "7106594312292453676"),
                  ("a", "day", "20240531"), ("b", "day", "20240601"), ("a", "genre", "sport"),
                  ("b", "genre", "film"), ("c", "name", "my name")]  # fmt: skip
    dataset = write_dataset(
        root,
        "mixed",
        clips=[
            {"clip_id": clip, "path": path, "source": "one" if clip == "a" else None} for clip, path in PATHS.items()
        ],
        captions=[
            {"caption_id": f"{clip}#{number}", "clip_id": clip, "text": text, "protocol": protocol}
            for number, (clip, text, protocol) in enumerate(captions)
        ],
        splits=[
            {"protocol": "p", "split": "train", "clip_id": "a"},
            {"protocol": "p", "split": "test", "clip_id": "b"},
            {"protocol": "q", "split": "train", "clip_id": "b"},
        ],
        protocols={"p": {"train": None, "test": None}, "q": {"train": None}},
        sources=[],
        attributes=[{"clip_id": clip, "name": name, "value": value} for clip, name, value in attributes],
    )
    recipe = films_recipe(dim=4)
    with FeatureWriter(feature_set_path(root, "mixed", recipe), FeatureCard(recipe)) as writer:
        for clip, length in LENGTHS.items():
            when = int(datetime(*DAYS[clip], 12, tzinfo=UTC).timestamp() * 1e9)
            edges = np.arange(length + 1.0)
            spans = np.stack([edges[:-1], edges[1:]], 1)
            writer.add(clip, np.ones((length, 4), np.float16), spans, source=Source(PATHS[clip] or "d.mp4", 1, when))
    features = AlignedFeatures([FeatureSet.open(feature_set_path(root, "mixed", recipe))])
    return ClipColumns(dataset, features, [PATHS[clip] for clip in features.clip_ids], "p")


def found(columns: ClipColumns, *conditions: str) -> str:
    mask = columns.mask(parse_filter(conditions))
    return "".join(clip for clip, fits in zip(columns._features.clip_ids, mask, strict=True) if fits)


@pytest.mark.parametrize(
    ("conditions", "clips"),
    [
        (["duration < 5"], "ac"),
        (["duration>=5"], "bd"),
        (["duration = 3.0"], "a"),
        (["duration != 3"], "bcd"),
        (["folder = trip"], "b"),
        (["folder ~ TRIP"], "ab"),
        (["folder = ."], "c"),
        (["folder = 'trip/day 1'"], "a"),
        (["name = my name"], "c"),  # a column of the captions file takes the place of ours
        (["path ~ .MP4"], "ab"),
        (["date = 2024-06"], "bd"),
        (["date < 2024-06-01"], "ac"),
        (["date <= 2024-06-01"], "abc"),
        (["date > 2023", "date<2024-06-02"], "ab"),
        (["date >= 2024-06-01T12:00"], "bd"),
        (["split = train"], "a"),  # of the protocol that is searched
        (["split != train"], "bcd"),
        (["text ~ dog"], "a"),
        (["text = it barks"], "a"),
        (["protocol = other"], "b"),
        (["source = one"], "a"),
        (["clip_id >= c"], "cd"),
        (["genre = sport"], "a"),
        (["genre != sport"], "bcd"),
        (["Genre ~ S"], "a"),
        (["year > 1999"], "b"),
        (["post = 7106594312292453675"], "a"),  # and not the one after it
        (["day = 20240531"], "a"),
        (["year ~ 19"], "a"),
        (["genre = sport", "genre = news"], "a"),
        (["genre = sport", "genre = film"], ""),
        ([], "abcd"),
    ],
)
def test_the_clips_that_fit(columns: ClipColumns, conditions: list[str], clips: str) -> None:
    assert found(columns, *conditions) == clips


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("camera = x", "no column 'camera'; there are day, genre, name, post, year, split, folder, date, duration"),
        ("duration", "write COLUMN OPERATOR VALUE"),
        ("duration <", "write COLUMN OPERATOR VALUE"),
        ("= 3", "write COLUMN OPERATOR VALUE"),
        ("duration < long", "'long' is no number"),
        ("date > May", "'May' is no date"),
    ],
)
def test_what_is_no_condition_is_one_line(columns: ClipColumns, condition: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        found(columns, condition)


def test_columns_are_listed_with_types_and_few_values(columns: ClipColumns) -> None:
    told = {column.name: (column.type, column.values) for column in columns.describe()}
    assert told["genre"] == ("text", ("film", "news", "sport"))
    assert told["year"] == ("number", ("1999", "2001.5"))
    assert told["split"] == ("text", ("test", "train"))
    assert told["duration"] == ("number", ("1", "3", "5", "12"))
    assert told["date"][0] == "date"
    assert told["day"] == ("number", ("20240531", "20240601"))
    assert told["post"] == ("text", ("7106594312292453675", "7106594312292453676"))
    assert "start_s" not in told, "it has no values"
