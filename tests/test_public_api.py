"""The public names: what they are, that they cost nothing until used, and that a run can be used from Python."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import supportset
from supportset.store.errors import UsageError
from tests.train.small_store import SmallStore, config, plant

pytestmark = pytest.mark.slow

PACKAGES = ("supportset", *(f"supportset.{name}" for name in ("store", "extract", "train", "evaluate", "search")))
LIGHT = {"supportset.store": {"torch", "transformers"}, "supportset.evaluate": {"torch", "transformers"}}


def in_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_quick_and_loads_no_library() -> None:
    code = """
import json, sys, time
before, began = set(sys.modules), time.process_time()
import supportset, supportset.store, supportset.extract, supportset.train, supportset.evaluate, supportset.search
seconds = time.process_time() - began
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""
    seconds, modules = json.loads(in_fresh_process(code))
    assert set(modules) - sys.stdlib_module_names == {"supportset"}
    assert seconds < 0.2


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(set(module.__all__))
    assert set(module.__all__) - {"__version__"} == set(dir(module))
    undocumented = {name for name in module.__all__ if not name.startswith("__") and not getattr(module, name).__doc__}
    assert not undocumented
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_a_package_exports_its_own_names_and_hides_no_module(package: str) -> None:
    folder = Path(str(importlib.import_module(package).__file__)).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    names = importlib.import_module(package).__all__
    assert not modules & set(names)
    assert all(getattr(importlib.import_module(package), name).__module__.startswith(f"{package}.") for name in names)


@pytest.mark.parametrize("package", sorted(LIGHT))
def test_names_of_store_and_evaluate_need_no_torch(package: str) -> None:
    code = f"import sys\nfrom {package} import *\nprint(*sys.modules)"
    assert not LIGHT[package] & set(in_fresh_process(code).split())


def test_packages_are_attributes_and_functions_do_not_replace_them() -> None:
    code = """
import supportset
names = (supportset.train_model, supportset.evaluate_run, supportset.extract_features, supportset.search_clips)
print(all(map(callable, names)), supportset.train.train_model is supportset.train_model, supportset.store.__name__)
"""
    assert in_fresh_process(code).split() == ["True", "True", "supportset.store"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return plant(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def run(store: SmallStore) -> supportset.Run:
    path = store.root.parent / f"{store.root.name}-run"
    chosen = config(support={"captioning": "none"}, optim={"epochs": 2})
    result = supportset.train_model(chosen, store.root, path, device="cpu")
    return supportset.open_run(result.run, device="cpu")


def test_embeddings_of_arrays_are_those_of_the_gallery(store: SmallStore, run: supportset.Run) -> None:
    features = supportset.open_features(store.root, "small/planted")
    gallery = run.open_gallery(store.root)
    ids = gallery.clip_ids[:40]
    values, offsets = features.read(ids)
    clips = run.encode_clips(np.split(values, offsets[1:-1]))
    assert clips.dtype == np.float32
    np.testing.assert_allclose(clips, gallery.embeddings[:40], atol=1e-5)
    assert run.encode_clips([]).shape == (0, 32)

    hits = gallery.search(["a red ball rolls"], 3)[0]
    scores = run.encode_text(["a red ball rolls"]) @ run.encode_clips([features.read([hits[0].clip_id])[0]]).T
    assert scores.item() == pytest.approx(hits[0].score, abs=1e-5)


def test_a_long_clip_is_thinned_as_in_training(run: supportset.Run) -> None:
    clip = np.random.default_rng(0).normal(size=(50, 24))
    kept = clip[[5, 15, 25, 35, 45]]  # the middles of five equal parts
    np.testing.assert_allclose(run.encode_clips([clip]), run.encode_clips([kept]), atol=1e-6)


def test_scores_from_python_are_those_of_the_command_line(store: SmallStore, run: supportset.Run) -> None:
    scores = run.evaluate(store.root)
    assert (scores["protocol"], scores["split"], scores["gallery"]) == ("planted", "test", 64)
    assert scores == supportset.evaluate_run(run.path, store=store.root, device="cpu")


def test_features_of_another_width_are_refused(run: supportset.Run) -> None:
    with pytest.raises(UsageError, match=r"clip 1: features of shape \(3, 7\), not \(T, 24\)"):
        run.encode_clips([np.zeros((2, 24)), np.zeros((3, 7))])


def test_a_folder_without_a_run_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        supportset.open_run(tmp_path)
