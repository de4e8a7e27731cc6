"""The command that `train` prints at its end works as it stands, whatever splits and captions a folder has."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from supportset._program import program
from supportset.commands.demo import next_commands
from supportset.commands.main import cli
from supportset.store.format.card import FeatureCard
from supportset.store.format.dataset import write_dataset
from supportset.store.read.catalog import feature_set_path
from supportset.store.write.writer import FeatureWriter
from supportset.train.run_folder import to_toml
from tests.train.small_store import DIM, config, recipe

pytestmark = pytest.mark.slow

COUNT = 20


def put(root: Path, name: str, splits: dict[str, range], captioned: range) -> None:
    """A dataset as `extract folder` makes it: all clips in the split `all`, some in others; some have captions."""
    ids = [f"clip{i}" for i in range(COUNT)]
    rows = {"all": range(COUNT), **splits}
    write_dataset(
        root,
        name,
        clips=[{"clip_id": clip_id, "path": f"{clip_id}.mp4"} for clip_id in ids],
        captions=[
            {"caption_id": f"{ids[i]}#{k}", "clip_id": ids[i], "text": f"thing {i} {word}"}
            for i in captioned
            for k, word in enumerate(("red", "blue"))
        ],
        splits=[
            {"protocol": "folder", "split": split, "clip_id": ids[i]} for split, clips in rows.items() for i in clips
        ],
        protocols={"folder": dict.fromkeys(rows)},
        sources=[],
    )
    card = FeatureCard(recipe(), {})
    rng = np.random.default_rng(0)
    with FeatureWriter(feature_set_path(root, name, card.recipe), card) as writer:
        for clip_id in ids:
            writer.add(clip_id, rng.normal(size=(3, DIM)), np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]))


def train(place: Path, **data: Any) -> Result:
    settings = config(
        data={"dataset": "mine", "protocol": "folder", **data},
        optim={"epochs": 1, "batch_size": 8, "select_by": "rsum" if data.get("holdout", 0.1) else "last"},
    )
    (place / "my config.toml").write_text(to_toml(settings))
    words = ["train", place / "my config.toml", "--store", place / "my store", "--out", place / "my run"]
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.mark.parametrize(
    ("splits", "captioned", "data", "options"),
    [
        ({}, range(COUNT), {"train_split": "all"}, "--split holdout"),
        ({}, range(COUNT), {"train_split": "all", "holdout": 0.0}, "--split all"),
        ({"train": range(12), "test": range(12, COUNT)}, range(COUNT), {"train_split": "train"}, ""),
        ({"train": range(12), "test": range(12, COUNT)}, range(12), {"train_split": "train"}, "--split holdout"),
        (
            {"train": range(12), "val": range(12, COUNT)},
            range(COUNT),
            {"train_split": "train", "validation_split": "val"},
            "--split val",
        ),
        (
            {"train": range(12), "a": range(12, 16), "b": range(16, COUNT)},
            range(12),
            {"train_split": "train"},
            "--split holdout",
        ),
    ],
)  # fmt: skip
def test_the_next_command_works(
    splits: dict[str, range], captioned: range, data: dict[str, Any], options: str, tmp_path: Path
) -> None:
    put(tmp_path / "my store", "mine", splits, captioned)
    trained = train(tmp_path, **data)
    assert trained.exit_code == 0, trained.output
    (line,) = (line for line in trained.stdout.splitlines() if line.startswith("next: "))
    command = line.removeprefix(f"next: {program()} ")
    assert command.endswith(options)
    done = CliRunner().invoke(cli, shlex.split(command))
    assert done.exit_code == 0, done.output

    put(tmp_path / "my store", "without", {}, range(0))
    words = ["search", tmp_path / "my run", "a red thing", "--store", tmp_path / "my store"]
    for dataset in ([], ["--dataset", "without"]):
        found = CliRunner().invoke(cli, [str(word) for word in [*words, *dataset]])
        assert found.exit_code == 0, found.output


def test_a_folder_without_captions_is_told_to_have_none(tmp_path: Path) -> None:
    put(tmp_path / "my store", "mine", {}, range(0))
    refused = train(tmp_path, train_split="all")
    assert refused.exit_code == 2
    assert "has a caption" in refused.stderr
    assert "next:" not in refused.output
    assert not (tmp_path / "my run").exists()


def test_the_commands_at_the_end_of_the_demo_are_ones_that_the_program_takes(tmp_path: Path) -> None:
    run, store = tmp_path / "my runs" / "1", tmp_path / "my store"
    commands = {}
    for words in next_commands(run, store).values():
        verb, *rest = shlex.split(words)
        commands[verb] = cli.get_command(click.Context(cli), verb).make_context(verb, rest).params  # type: ignore[union-attr]
    assert commands["search"]["words"] == (str(run), "two red balls roll to the left")
    assert commands["serve"]["runs"] == (str(run),)
    assert commands["search"]["store"] == commands["serve"]["store"] == str(store)
