"""The planted world: what the example writes is a dataset that trains, and that says what it promises."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from supportset.store.format.dataset import open_dataset
from supportset.store.read.catalog import find_feature_set
from supportset.train.config import load_config
from supportset.train.loop.training import train
from tests.extract.plugin import ROOT


def test_it_writes_a_dataset_that_trains(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "planted_world.py", "--concepts", "12", "--repeats", "3"]
    done = subprocess.run(
        [*command, "--store", tmp_path / "s"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("planted: 36 train, 12 val, 12 test clips of 12 concepts, ")
    tables = open_dataset(tmp_path / "s", "planted")
    said: dict[str, set[frozenset[str]]] = {}
    for caption in tables.split_captions("planted", "train"):
        concept = frozenset(word[:-1] for word in caption.text.split() if word[:-2] in ("animal", "do", "place"))
        assert len(concept) == 3
        said.setdefault(caption.clip_id, set()).add(concept)
    assert all(len(concepts) == 1 for concepts in said.values())
    assert set(Counter(concept for concepts in said.values() for concept in concepts).values()) == {3}
    features = find_feature_set(tmp_path / "s", "planted/planted")
    values, offsets = features.read(["train00000", "train00001"])
    assert values.shape == (offsets[-1], 128)
    assert np.isfinite(values).all()
    settings = ("optim.epochs=1", "optim.batch_size=16", "support.captioning=none")
    config = load_config(ROOT / "configs" / "ablations" / "base" / "planted.toml", settings)
    train(config, tmp_path / "s", tmp_path / "run")
    assert (tmp_path / "run" / "best.json").is_file()
