"""Grids: what they expand to, and that what is wrong in one is told before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.store.errors import UsageError
from supportset.train.ablation.grid import Grid, load_grid, nested
from supportset.train.config import flat, merged
from supportset.train.run_folder import to_toml
from tests.train.small_store import config

TWO = "[variants.none]\nsupport.captioning = 'none'\n[variants.cross]\n"
CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "ablations"


def read(folder: Path, text: str) -> Grid:
    (folder / "base.toml").write_text(to_toml(config()))
    (folder / "study.toml").write_text('base = "base.toml"\n' + text)
    return load_grid(folder / "study.toml")


def test_variants_are_the_base_with_overrides_and_their_own_changes(tmp_path: Path) -> None:
    grid = read(tmp_path, "seeds = [4, 2]\n[overrides]\noptim.epochs = 7\nloss.caption_weight = 1.5\n" + TWO)
    assert (grid.name, grid.seeds, grid.metric, grid.fold_numbers) == ("study", (4, 2), "t2v/R@1", (None,))
    none, cross = grid.variants
    assert (none.name, none.changes) == ("none", {"support.captioning": "none"})
    made = none.config(2)
    assert (made.name, made.seed, made.optim.epochs, made.loss.caption_weight) == ("none", 2, 7, 1.5)
    assert made.support.captioning == "none"
    assert cross.config(4) == config(
        name="cross", seed=4, optim={"epochs": 7}, loss={"caption_weight": 1.5}, support={"captioning": "cross"}
    )
    assert cross.config(4, {"loss.caption_weight": 0.1}).loss.caption_weight == 0.1


def test_trials_are_different_combinations_and_as_many_for_each_variant(tmp_path: Path) -> None:
    text = f"""seeds = [0]
{TWO}[variants.none.search]
optim.learning_rate = [1e-4, 1e-3, 1e-2, 3e-2]
[search]
trials = 4
[search.values]
loss.caption_weight = [0.1, 0.3, 1.0]
support.temperature = [0.05, 0.1]
"""
    grid = read(tmp_path, text)
    none, cross = grid.variants
    assert none.candidates == tuple({"optim.learning_rate": rate} for rate in (1e-4, 1e-3, 1e-2, 3e-2))
    assert len(cross.candidates) == 4
    assert len({tuple(values.items()) for values in cross.candidates}) == 4
    assert all(set(values) == {"loss.caption_weight", "support.temperature"} for values in cross.candidates)
    assert read(tmp_path, text).variants[1].candidates == cross.candidates


@pytest.mark.parametrize("trials", [1, 4, 6, 7, 12])
def test_balanced_trials_try_every_learning_rate_alike_in_all_variants(tmp_path: Path, trials: int) -> None:
    text = f"""seeds = [0]
{TWO}[variants.none.search]
optim.learning_rate = [1e-4, 1e-3, 1e-2]
loss.margin = [0.05, 0.1, 0.2, 0.3]
[search]
trials = {trials}
draw = "balanced"
[search.values]
optim.learning_rate = [1e-4, 1e-3, 1e-2]
loss.caption_weight = [0.1, 0.3, 1.0]
support.temperature = [0.05, 0.1]
"""
    none, cross = ([dict(values) for values in variant.candidates] for variant in read(tmp_path, text).variants)
    rates = [values["optim.learning_rate"] for values in none]
    assert rates == [values["optim.learning_rate"] for values in cross]
    times = [rates.count(rate) for rate in (1e-4, 1e-3, 1e-2)]
    assert sum(times) == trials
    assert max(times) - min(times) <= 1
    for values in (none, cross):
        assert len({tuple(each.items()) for each in values}) == trials


def test_balanced_trials_may_be_all_combinations(tmp_path: Path) -> None:
    text = "seeds = [0]\n[variants.a]\n[search]\ntrials = 4\ndraw = 'balanced'\n"
    text += "values.loss.caption_weight = [0.1, 1.0]\nvalues.support.temperature = [0.1, 0.2]\n"
    (variant,) = read(tmp_path, text).variants
    assert {tuple(each.values()) for each in variant.candidates} == {(0.1, 0.1), (0.1, 0.2), (1.0, 0.1), (1.0, 0.2)}


def test_old_keys_load(tmp_path: Path) -> None:
    text = "seeds = [0]\noverrides.data.max_words = 9\n[variants.a]\noptim.clip_norm = 0.5\n[variants.a.search]\n"
    text += "'loss.weight' = [0.1, 0.2]\n[variants.b]\n[search]\ntrials = 2\nvalues.loss.weight = [0.3, 0.4]\n"
    a, b = read(tmp_path, text).variants
    setting = a.config(0)
    assert (setting.data.max_tokens, setting.optim.max_grad_norm) == (9, 0.5)
    assert [sorted(each.values()) for each in (*a.candidates, *b.candidates)] == [[0.1], [0.2], [0.3], [0.4]]
    assert {key for each in (*a.candidates, *b.candidates) for key in each} == {"loss.caption_weight"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = [0, 0]\n[variants.a]\n", "seeds = .*a seed is listed twice"),
        ("seeds = []\n[variants.a]\n", "seeds"),
        ("seeds = [0]\n", "'variants' is missing"),
        ("seeds = [-1]\n[variants.a]\n", "variant 'a': seed = -1"),
        ("seeds = [0]\nsed = 1\n[variants.a]\n", "unknown key 'sed'.*seeds"),
        ("seeds = [0]\nmetric = 'R@1'\n[variants.a]\n", "metric = 'R@1'"),
        ("seeds = [0]\n[variants.'a b']\n", "variant 'a b': letters, digits"),
        ("seeds = [0]\n[variants.a]\nsupport.captionin = 1\n", "variant 'a': unknown key 'support.captionin'"),
        ("seeds = [0]\nfolds = 3\n[variants.a]\ndata.validation_split = 'val'\n", "does not go with folds"),
        ("seeds = [0]\n[variants.a.search]\nloss.caption_weight = [1.0]\n", "there is no \\[search\\]"),
        ("seeds = [0]\n[variants.a]\n[search]\ntrials = 2\n", "what is searched must be section.key = "),
        ("seeds = [0]\n[variants.a]\n[search]\ntrials = 1\nvalues.loss.margin = 1.0\n", "what is searched must be"),
        ("seeds = [0]\n[variants.a]\n[search]\ntrials = 2\nvalues.loss.margin = [1.0]\n", "1 combinations of values"),
        ("seeds = [0]\n[variants.a]\n[search]\ntrials = 1\nvalues.loss.wei = [1.0]\n", "unknown key 'loss.wei'"),
        ("seeds = [0]\n[variants.a]\n[search]\ntrial = 1\n", "unknown key 'search.trial' \\(did you mean 'trials'"),
        (
            "seeds = [0]\n[variants.none]\nsupport.captioning = 'none'\n"
            "[search]\ntrials = 1\nvalues.loss.caption_weight = [1.0]\n",
            "variant 'none': loss.caption_weight changes nothing there.*\\[variants.none.search\\]",
        ),
        (
            "seeds = [0]\n[variants.a]\noptim.select_by = 'last'\n[search]\ntrials = 1\nvalues.loss.margin = [1.0]\n",
            "gives no score to judge trials by",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_names_the_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=rf"study\.toml: .*{words}") as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_an_absent_base_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("base = '../no.toml'\nseeds = [0]\n[variants.a]\n")
    with pytest.raises(UsageError, match=r"no\.toml: no such configuration file"):
        load_grid(tmp_path / "study.toml")


def test_trees_and_their_flat_form() -> None:
    tree = {"a": {"b": 1, "c": {"d": [2]}}, "e": 3}
    assert flat(tree) == {"a.b": 1, "a.c.d": [2], "e": 3}
    assert nested(flat(tree)) == tree
    assert merged(tree, {"a": {"b": 5}, "f": 6}) == {"a": {"b": 5, "c": {"d": [2]}}, "e": 3, "f": 6}
    assert tree["a"] == {"b": 1, "c": {"d": [2]}}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_grids_are_whole(path: Path) -> None:
    grid = load_grid(path)
    assert len(grid.variants) >= 2
    assert grid.name == path.stem
    assert grid.note
