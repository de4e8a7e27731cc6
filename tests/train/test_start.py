"""Training that starts at an encoder pair: step 0 is the pair without training, and the run is self-contained."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from supportset.commands.main import cli
from supportset.evaluate.ranks import unit_rows
from supportset.extract.text.encoders import load_text_encoder
from supportset.extract.text.run import extract_text
from supportset.search.run import open_run
from supportset.search.zero_shot import open_zero_shot
from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard
from supportset.store.format.dataset import open_dataset
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from supportset.train.model.model import SupportSetModel
from supportset.train.model.video_encoder import VideoEncoder, zero_shot
from supportset.train.model.weights.lora import add_lora
from tests.extract.pairs import save_pair
from tests.extract.text_models import save_bert
from tests.train.small_models import small_config
from tests.train.small_store import SmallStore, config, plant, recipe_of
from tests.train.test_loop import records, same_weights

pytestmark = pytest.mark.slow

TEXTS = ["a red ball rolls", "the star that is blue spins here", "a ring"]
TINY: dict[str, Any] = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "layers": 2, "heads": 2},
    "quick_gelu": True,
}
DIMS = {"open_clip": 20, "clip": 20, "siglip": 32}
KINDS = list(DIMS)


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
        found[kind] = plant(tmp_path_factory.mktemp(kind), of=recipe_of(name), given=name)
        tower = load_text_encoder(name)
        extract_text(found[kind].dataset, found[kind].root, tower, dtype="float32", device="cpu", progress=False)
    return found


def setting(kind: str, **sections: Any) -> Any:
    tree: dict[str, Any] = {
        "dim": DIMS[kind],
        "data": {"features": [features_of(kind)], "max_steps": 8},
        "video": {"init": "identity"},
        "text": {"encoder": "tower", "name": "", "head": "none"},
        "support": {"captioning": "none"},
        "loss": {"contrastive": "infonce"},
    }
    for section, values in sections.items():
        tree[section] = {**tree.get(section, {}), **values} if isinstance(values, dict) else values
    return config(**tree)


def features_of(kind: str) -> str:
    return kind if kind == "open_clip" else f"hf-{kind}"


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_step_0_is_eval_zero_shot(
    kind: str, cached: bool, stores: dict[str, SmallStore], pairs: dict[str, str], tmp_path: Path
) -> None:
    root, text = stores[kind].root, {"features": features_of(kind)} if cached else {"head": "mean"}
    result = train(setting(kind, text=text, optim={"epochs": 0}), root, tmp_path / "run", device="cpu")
    assert (result.epochs, result.steps, result.best["epoch"]) == (0, 0, 0)
    assert [record["step"] for record in records(tmp_path / "run", "validation")] == [0]
    trained = evaluate(tmp_path / "run", store=root, device="cpu")
    words = ["eval", "--zero-shot", f"small/{features_of(kind)}", "--store", str(root), "--out", str(tmp_path / "pair")]
    done = CliRunner().invoke(cli, [*words, "--protocol", "planted", "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    untrained = json.loads(done.stdout)
    for key in ("t2v", "v2t", "rsum", "intervals", "gallery", "queries"):
        assert trained[key] == untrained[key]
    assert pq.read_table(trained["files"]["ranks"]) == pq.read_table(untrained["files"]["ranks"])

    run = open_run(tmp_path / "run", "cpu", text_encoder=pairs[kind] if cached else None)
    pair = open_zero_shot(f"small/{features_of(kind)}", root, device="cpu")
    texts = [caption.text for caption in open_dataset(root, "small").split_captions("planted", "test")]
    np.testing.assert_allclose(run.encode_text([*texts, ""]), pair.encode_text([*texts, ""]), atol=1e-6)
    clips = [np.random.default_rng(0).normal(size=(steps, DIMS[kind])).astype(np.float32) for steps in (1, 5)]
    np.testing.assert_allclose(run.encode_clips(clips), pair.encode_clips(clips), atol=1e-6)


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
    embedded = run.encode_text(TEXTS)
    assert np.abs(embedded[0] - embedded[1]).max() > 1e-3
    assert run.encode_clips([np.ones((3, DIMS[kind]), np.float32)]).shape == (1, DIMS[kind])
    state = load_file(tmp_path / "sent" / "model.safetensors")
    assert not [name for name in state if "lora" in name or "base_layer" in name]
    pickled = [path for path in (tmp_path / "sent").rglob("*") if path.suffix in (".bin", ".pkl", ".pt")]
    assert {path.parent.name for path in pickled} == {"checkpoint"}
    assert scores["rsum"] > 0


def test_a_training_that_harms_keeps_the_model_of_step_0(stores: dict[str, SmallStore], tmp_path: Path) -> None:
    chosen = setting("clip", text={"finetune": False}, optim={"epochs": 2, "learning_rate": 1e-9, "patience": 1})
    result = train(chosen, stores["clip"].root, tmp_path / "run", device="cpu")  # no score rises: the ranks stay
    assert (result.best["epoch"], result.epochs) == (0, 1)
    assert [record["epoch"] for record in records(tmp_path / "run", "validation")] == [0, 1]
    train(chosen.model_copy(update={"optim": chosen.optim.model_copy(update={"epochs": 0})}), stores["clip"].root,
          tmp_path / "untrained", device="cpu")  # fmt: skip
    assert same_weights(tmp_path / "run", tmp_path / "untrained")


def test_adapters_alone_are_trained_and_a_stopped_run_goes_on(stores: dict[str, SmallStore], tmp_path: Path) -> None:
    optim = {"epochs": 2, "select_by": "last", "checkpoint_every": 3}
    chosen = setting("clip", text={"lora": 2}, optim=optim, loss={"temperature": "tower"})
    root = stores["clip"].root
    whole = train(chosen, root, tmp_path / "whole", device="cpu")
    cut = chosen.model_copy(update={"optim": chosen.optim.model_copy(update={"max_steps": 5})})
    train(cut, root, tmp_path / "parts", device="cpu")
    train(chosen, root, tmp_path / "parts", device="cpu", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")

    train(chosen.model_copy(update={"optim": chosen.optim.model_copy(update={"epochs": 0})}), root,
          tmp_path / "start", device="cpu")  # fmt: skip
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "whole"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    tower = {name for name in before if name.startswith("text.backbone.")}
    linear = {
        name for name in tower if name.endswith(("_proj.weight", "fc1.weight", "fc2.weight", "projection.weight"))
    }
    assert changed & tower == linear
    state = torch.load(tmp_path / "whole" / "checkpoint" / "state.pt", weights_only=True)["model"]
    assert {name for name in state if "lora_" in name}
    assert whole.steps == 16


def test_the_temperature_starts_as_the_pairs_and_is_learned(
    stores: dict[str, SmallStore], pairs: dict[str, str], tmp_path: Path
) -> None:
    tower = load_text_encoder(pairs["siglip"])
    words = {"text": {"features": "hf-siglip"}, "loss": {"temperature": "tower"}}
    chosen = setting("siglip", **words, optim={"epochs": 2, "log_every": 1})
    train(chosen, stores["siglip"].root, tmp_path / "run", device="cpu")
    logged = [record["temperature"] for record in records(tmp_path / "run", "train")]
    assert logged[0] == pytest.approx(1 / tower.logit_scale)  # type: ignore[attr-defined]
    assert len(set(logged)) == len(logged) == 16
    saved = load_file(tmp_path / "run" / "model.safetensors")["log_scale"]
    assert saved.shape == ()


def test_features_beside_the_pairs_reach_the_head_alone(stores: dict[str, SmallStore], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(stores["clip"].root, store)
    plant(store)  # other features of the same clips
    alone = train(setting("clip", optim={"epochs": 0}), store, tmp_path / "alone", device="cpu")
    both = setting("clip", data={"features": ["hf-clip", "planted"]}, optim={"epochs": 0})
    assert train(both, store, tmp_path / "both", device="cpu").best["validation"] == alone.best["validation"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"dim": 32}, "gives embeddings of length 20: set dim = 20, not 32"),
        ({"dim": 32, "text": {"encoder": "words", "head": "mean"}}, "at features of length 20: set dim = 20"),
        ({"text": {"name": "hf:/nowhere"}}, r"text.encoder = 'tower': .*text.name names its path"),
        ({"data": {"features": ["planted"]}}, "planted:concepts"),
        ({"data": {"features": ["planted", "hf-clip"]}}, "planted:concepts"),
        ({"text": {"features": "hf-bert"}}, "holds no text embeddings of an encoder pair"),
        ({"text": {"features": "hf-siglip"}}, r"are of hf:siglip, the clips' features of hf:clip: .* one pair"),
    ],
)
def test_what_cannot_start_at_a_pair_is_one_line(
    sections: dict[str, Any], words: str, pairs: dict[str, str], stores: dict[str, SmallStore], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(stores["clip"].root, store)
    plant(store)
    save_bert(tmp_path / "bert")
    for name in (str(tmp_path / "bert"), pairs["siglip"]):
        extract_text(open_dataset(store, "small"), store, load_text_encoder(name), device="cpu", progress=False)
    with pytest.raises(UsageError, match=words) as error:
        train(setting("clip", **sections), store, tmp_path / "run", device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_pair_without_a_temperature_says_so(tmp_path: Path) -> None:
    save_pair("videoprism", tmp_path / "pair")
    recipe = recipe_of(f"hf:{tmp_path / 'pair'}")
    card = FeatureCard(recipe, {"backbone": f"hf:{tmp_path / 'pair'}"})
    chosen = setting("clip", dim=recipe.dim, loss={"temperature": "tower"})
    with pytest.raises(UsageError, match="this encoder pair has no temperature; give a number"):
        SupportSetModel.build(chosen, recipe.dim, TEXTS, visual=card)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"loss": {"temperature": 0.0}}, "loss.temperature = 0: give a number above 0, or 'tower'$"),
        ({"loss": {"temperature": float("nan")}}, "loss.temperature = nan: give a number above 0, or 'tower'$"),
        ({"loss": {"temperature": "towe"}}, "loss.temperature = 'towe': give a number above 0, or 'tower'$"),
        ({"loss": {"temperature": "tower"}}, "needs text.encoder = 'tower'"),
        ({"text": {"encoder": "words", "lora": 4}}, "text.lora = 4 adapts a tower"),
        ({"text": {"encoder": "tower", "lora": 4, "features": "x"}}, "text.lora = 4 adapts a tower"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        small_config(**sections)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_identity_head_starts_at_the_mean_of_unit_steps(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([4, 1, 2])
    mask = torch.arange(4)[None] < lengths[:, None]
    steps = torch.randn(3, 4, 12, dtype=torch.float64).to(dtype)
    steps[~mask] = torch.nan  # whatever stands in padding
    expected = np.stack([unit_rows(clip[:n].double().numpy()).mean(0) for clip, n in zip(steps, lengths, strict=True)])
    np.testing.assert_allclose(zero_shot(steps, mask).numpy(), expected, atol=1e-6)
    for aggregation in ("mean", "max", "attention", "transformer"):
        video = small_config(video={"init": "identity", "aggregation": aggregation, "dropout": 0.5}).video
        encoder = VideoEncoder(video, 12, 12)
        values = steps.to(torch.promote_types(dtype, torch.float32)).nan_to_num()
        found = encoder.to(values.dtype)(values, mask).embedding
        assert torch.equal(found, zero_shot(values, mask))
        found.square().sum().backward()
        assert encoder.embed.weight.grad is not None
        assert encoder.embed.weight.grad.abs().max() > 0


def test_without_peft_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"text.lora = 4 needs peft: pip install 'supportset\[lora\]'"):
        add_lora(torch.nn.Linear(2, 2), 4)
