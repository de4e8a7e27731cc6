"""Training that starts at an encoder pair: step 0 is the pair without training, and the run is self-contained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from supportset.evaluate.ranks import unit_rows
from supportset.extract.backbones import load_backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.recipe import fit_sampling, make_recipe
from supportset.extract.text.encoders import live_features, load_text_encoder, load_tower
from supportset.extract.text.run import extract_text
from supportset.search.run import open_run
from supportset.store.format.dataset import open_dataset
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from tests.extract.pairs import DIM, save_pair
from tests.train.small_store import SmallStore, config, plant
from tests.train.test_loop import records

pytestmark = pytest.mark.slow

TEXTS = ["a red ball rolls", "the star that is blue spins here", "a ring"]
TINY: dict[str, Any] = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "layers": 2, "heads": 2},
    "quick_gelu": True,
}
KINDS = ["open_clip", "clip", "siglip"]


def save_open_clip(folder: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY)
    for parameter in model.transformer.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    settings = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of tiny encoder pairs on this machine."""
    root = tmp_path_factory.mktemp("pairs")
    save_open_clip(root / "open_clip")
    for kind in KINDS[1:]:
        save_pair(kind, root / kind)
    return {kind: f"{'open_clip' if kind == 'open_clip' else 'hf'}:{root / kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def stores(pairs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, SmallStore]:
    """Planted features under the recipe of each pair's visual half, and the captions' embeddings by the text half."""
    found = {}
    for kind, name in pairs.items():
        backbone = load_backbone(name)
        recipe = make_recipe(backbone, fit_sampling(Sampling(fps=1.0), backbone), "float16")
        found[kind] = plant(tmp_path_factory.mktemp(kind), of=recipe, given=name)
        tower = load_text_encoder(name)
        extract_text(found[kind].dataset, found[kind].root, tower, dtype="float32", device="cpu", progress=False)
    return found


def setting(kind: str, **sections: Any) -> Any:
    tree: dict[str, Any] = {
        "dim": DIM,
        "data": {"features": [kind if kind == "open_clip" else f"hf-{kind}"], "max_steps": 8},
        "video": {"init": "identity"},
        "text": {"encoder": "tower", "name": "", "head": "none"},
        "support": {"captioning": "none"},
        "loss": {"contrastive": "infonce"},
    }
    for section, values in sections.items():
        tree[section] = {**tree.get(section, {}), **values} if isinstance(values, dict) else values
    return config(**tree)


def zero_shot_scores(store: SmallStore, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Test clips and captions embedded by NumPy and the pair alone."""
    from supportset.train.data.feature_sets import open_features

    dataset = open_dataset(store.root, "small")
    features = open_features(store.root, "small", kind if kind == "open_clip" else f"hf-{kind}")
    clips = []
    for clip_id in dataset.split_clips("planted", "test"):
        values = features.read([clip_id])[0].astype(np.float32)
        clips.append(unit_rows(values).mean(0))
    captions = [caption.text for caption in dataset.split_captions("planted", "test")]
    tower = load_tower(features.card.recipe, name)
    return unit_rows(np.stack(clips)), unit_rows(np.concatenate(live_features(tower)(captions)))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_step_0_is_the_pair_without_training(
    kind: str, cached: bool, stores: dict[str, SmallStore], pairs: dict[str, str], tmp_path: Path
) -> None:
    store = stores[kind]
    text = {"features": kind if kind == "open_clip" else f"hf-{kind}"} if cached else {"head": "mean"}
    result = train(setting(kind, text=text, optim={"epochs": 0}), store.root, tmp_path / "run", device="cpu")
    assert (result.epochs, result.steps, result.best["epoch"]) == (0, 0, 0)
    assert [record["step"] for record in records(tmp_path / "run", "validation")] == [0]
    scores = evaluate(tmp_path / "run", store=store.root, device="cpu")
    video, said = zero_shot_scores(store, kind, pairs[kind])
    run = open_run(tmp_path / "run", "cpu", text_encoder=pairs[kind] if cached else None)
    captions = open_dataset(store.root, "small").split_captions("planted", "test")
    np.testing.assert_allclose(run.embed_texts([each.text for each in captions]), said, atol=1e-6)
    similarities = said @ video.T
    own = {clip_id: row for row, clip_id in enumerate(open_dataset(store.root, "small").split_clips("planted", "test"))}
    right = np.array([similarities[row, own[each.clip_id]] for row, each in enumerate(captions)])
    ranks = (similarities >= right[:, None]).sum(1)
    import pyarrow.parquet as pq

    table = pq.read_table(scores["files"]["ranks"]).to_pylist()
    found = {row["query_id"]: row["rank"] for row in table if row["direction"] == "t2v"}
    assert [found[each.caption_id] for each in captions] == ranks.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [{}, {"lora": 4, "head": "mean"}, {"finetune": False}], ids=["all", "lora", "frozen"])
def test_a_run_needs_nothing_but_its_folder(
    kind: str, text: dict[str, Any], stores: dict[str, SmallStore], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(stores[kind].root, store)
    chosen = setting(kind, text=text, optim={"epochs": 1, "select_by": "last"}, data={"holdout": 0.0})
    train(chosen, store, tmp_path / "run", device="cpu")
    scores = evaluate(tmp_path / "run", store=store, device="cpu")
    shutil.rmtree(store)
    shutil.move(tmp_path / "run", tmp_path / "sent")
    run = open_run(tmp_path / "sent", "cpu")
    embedded = run.embed_texts(TEXTS)
    assert np.abs(embedded[0] - embedded[1]).max() > 1e-3
    assert run.embed_clips([np.ones((3, DIM), np.float32)]).shape == (1, DIM)
    state = load_file(tmp_path / "sent" / "model.safetensors")
    assert not [name for name in state if "lora" in name or "base_layer" in name]
    pickled = [path for path in (tmp_path / "sent").rglob("*") if path.suffix in (".bin", ".pkl", ".pt")]
    assert {path.parent.name for path in pickled} == {"checkpoint"}
    assert scores["rsum"] > 0
