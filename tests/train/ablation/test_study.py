"""Studies on the planted store: what is run, what is left, and that a study goes on where it was broken off."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.train.ablation import study as study_module
from supportset.train.ablation.grid import Grid, load_grid
from supportset.train.ablation.results import RunKey, StudyFolder
from supportset.train.ablation.study import read_study, run_study
from supportset.train.ablation.table import tabulate, write_tables
from supportset.train.ablation.worker import Outcome, Task, run_task
from supportset.train.data.folds import fold_of_clips, open_fold
from supportset.train.data.source import source_videos
from supportset.train.evaluate import evaluate
from supportset.train.loop.stop import TrainingInterrupted
from supportset.train.loop.training import train
from supportset.train.run_folder import to_toml
from tests.train.small_store import config, plant

pytestmark = pytest.mark.slow

FAST = """
[overrides]
optim.epochs = 1
optim.max_steps = 3
"""
TWO = "[variants.none]\nsupport.captioning = 'none'\n[variants.cross]\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("store")).root


def write_grid(folder: Path, text: str, **sections: Any) -> Path:
    (folder / "base.toml").write_text(to_toml(config(**sections)))
    path = folder / "grid.toml"
    path.write_text('base = "base.toml"\n' + text)
    return path


def grid_of(folder: Path, text: str, **sections: Any) -> Grid:
    return load_grid(write_grid(folder, text, **sections))


def made(folder: Path, kind: str = "runs") -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / kind).glob("*.json"))}


def silent(line: str) -> None:
    pass


def test_every_variant_runs_with_every_seed_and_nothing_is_made_twice(root: Path, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, f"seeds = [3, 1]\n{FAST}{TWO}")
    told: list[str] = []
    study = run_study(grid, tmp_path / "study", root, device="cpu", tell=told.append)
    assert list(study.runs) == [RunKey(v, s) for s in (3, 1) for v in ("none", "cross")]
    before = made(tmp_path / "study")
    assert list(before) == ["cross-seed1.json", "cross-seed3.json", "none-seed1.json", "none-seed3.json"]
    assert not (tmp_path / "study" / "work").exists()
    assert told[0] == "grid: 4 runs to make, 1 at a time"
    assert "none-seed3: R@1 " in told[1]
    assert "; 3 left" in told[1]
    again = run_study(grid, tmp_path / "study", root, device="cpu", tell=told.append)
    assert made(tmp_path / "study") == before
    assert again.runs == study.runs
    assert read_study(grid, tmp_path / "study").runs == study.runs


def test_a_run_is_what_train_and_eval_give(root: Path, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, f"seeds = [1]\n{FAST}[variants.cross]\n")
    study = run_study(grid, tmp_path / "study", root, device="cpu", keep_models=True, tell=silent)
    alone = train(grid.variants[0].config(1), root, tmp_path / "run", device="cpu")
    expected = evaluate(alone.run, store=root, device="cpu")
    result = study.runs[RunKey("cross", 1)]
    assert result["test"]["t2v"] == expected["t2v"]
    assert result["test"]["v2t"] == expected["v2t"]
    assert {name: result["test"][name] for name in ("gallery", "queries", "missing", "split", "leakage")} == {
        name: expected[name] for name in ("gallery", "queries", "missing", "split", "leakage")
    }
    assert result["best"] == alone.best
    table = tabulate(study, samples=50)["variants"][0]["scores"]
    for way in ("t2v", "v2t"):
        for cut in (1, 5, 10):
            assert table[f"{way}/R@{cut}"]["mean"] == pytest.approx(expected[way][f"R@{cut}"])
    assert table["rsum"]["mean"] == pytest.approx(expected["rsum"])
    assert (tmp_path / "study" / "work" / "cross-seed1" / "model.safetensors").exists()


def test_a_changed_variant_alone_is_made_again(root: Path, tmp_path: Path) -> None:
    text = f"seeds = [0]\n{FAST}{TWO}"
    run_study(grid_of(tmp_path, text), tmp_path / "study", root, device="cpu", tell=silent)
    before = made(tmp_path / "study")
    changed = grid_of(tmp_path, f"{text}support.temperature = 0.2\n")
    assert [key.variant for key in read_study(changed, tmp_path / "study").runs] == ["none"]
    run_study(changed, tmp_path / "study", root, device="cpu", tell=silent)
    after = made(tmp_path / "study")
    assert after["none-seed0.json"] == before["none-seed0.json"]
    assert after["cross-seed0.json"] != before["cross-seed0.json"]
    # Another split or number of folds is another question.
    assert not read_study(grid_of(tmp_path, f"split = 'test'\n{text}"), tmp_path / "study").runs
    # How often is logged changes no number, and keys learned since then have their defaults in an old file.
    logged = grid_of(tmp_path, text.replace("[variants.none]", "optim.log_every = 1\n[variants.none]"))
    path = tmp_path / "study" / "runs" / "none-seed0.json"
    tree = json.loads(path.read_text())
    del tree["config"]["support"]["temperature"]
    path.write_text(json.dumps(tree))
    assert [key.variant for key in read_study(logged, tmp_path / "study").runs] == ["none"]


def test_a_study_that_is_stopped_goes_on_in_the_middle_of_a_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(tmp_path, f"seeds = [0]\n{FAST}{TWO}")
    run_study(grid, tmp_path / "whole", root, device="cpu", tell=silent)
    original = train

    def stopped(setting: Any, *args: Any, **options: Any) -> Any:
        if setting.support.captioning == "cross":
            cut = setting.model_copy(update={"optim": setting.optim.model_copy(update={"max_steps": 2})})
            original(cut, *args, **options)
            raise TrainingInterrupted("stopped")
        return original(setting, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("supportset.train.ablation.worker.train", stopped)
        with pytest.raises(TrainingInterrupted, match="1 runs and 0 trials of 'grid' are finished"):
            run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)
    assert list(made(tmp_path / "study")) == ["none-seed0.json"]
    assert (tmp_path / "study" / "work" / "cross-seed0" / "checkpoint").is_dir()
    steps: list[bool] = []

    def watched(*args: Any, **options: Any) -> Any:
        steps.append((Path(args[2]) / "checkpoint").is_dir())
        return original(*args, **options)

    monkeypatch.setattr("supportset.train.ablation.worker.train", watched)
    study = run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)
    assert steps == [True]
    whole = read_study(grid, tmp_path / "whole").runs[RunKey("cross", 0)]
    assert study.runs[RunKey("cross", 0)]["ranks"] == whole["ranks"]


def test_failures_are_told_and_tried_again_on_request(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(tmp_path, f"seeds = [0]\n{FAST}{TWO}")

    def broken(setting: Any, *args: Any, **options: Any) -> Any:
        if setting.support.captioning == "none":
            raise SupportsetError("step 5: loss is nan")
        return train(setting, *args, **options)

    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("supportset.train.ablation.worker.train", broken)
        study = run_study(grid, tmp_path / "study", root, device="cpu", tell=told.append)
    assert study.failed == {RunKey("none", 0): "step 5: loss is nan"}
    assert any("none-seed0: FAILED: step 5: loss is nan" in line for line in told)
    assert list(made(tmp_path / "study")) == ["cross-seed0.json"]
    table = tabulate(study, samples=50)
    assert table["failed"] == {"none-seed0": "step 5: loss is nan"}
    assert "1 runs failed: none-seed0" in table["notes"]
    assert "unfinished: 1 of 2 runs are there" in table["notes"]
    assert table["variants"][0]["difference"] is None
    assert run_study(grid, tmp_path / "study", root, device="cpu", tell=silent).failed == study.failed
    mended = run_study(grid, tmp_path / "study", root, device="cpu", retry_failed=True, tell=silent)
    assert not mended.failed
    assert len(mended.runs) == 2
    assert not made(tmp_path / "study", "failed")
    # A failure of another configuration says nothing about this one.
    (tmp_path / "study" / "runs" / "none-seed0.json").unlink()
    StudyFolder(tmp_path / "study").write(
        "failed/none-seed0.json", {"format": "supportset-ablation", "version": 1, "config_hash": "x", "error": "old"}
    )
    assert not read_study(grid, tmp_path / "study").failed


def test_an_unexpected_error_is_recorded_with_its_trace(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("supportset.train.ablation.worker.train", broken)
    grid = grid_of(tmp_path, f"seeds = [0]\n{FAST}[variants.a]\n")
    study = run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)
    assert study.failed == {RunKey("a", 0): "ZeroDivisionError: division by zero"}
    record = json.loads((tmp_path / "study" / "failed" / "a-seed0.json").read_text())
    assert "in broken" in record["trace"]
    with pytest.raises(UsageError, match="no run of study 'grid' is finished there"):
        tabulate(study)


def test_what_is_wrong_for_all_runs_ends_the_study(root: Path, tmp_path: Path) -> None:
    for text, words in (
        ("split = 'train'\n", "trained or selected on it"),
        ("split = 'other'\n", "no split 'other'"),
        ("folds = 1000\n", "cannot be cut into 1000 folds"),
    ):
        grid = grid_of(tmp_path, f"seeds = [0]\n{text}{FAST}{TWO}")
        with pytest.raises(UsageError, match=f"none-seed0.*: .*{words}"):
            run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)
    assert not made(tmp_path / "study", "failed")


def test_runs_in_processes_of_their_own_give_the_same(root: Path, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, f"seeds = [0]\n{FAST}{TWO}")
    one = run_study(grid, tmp_path / "one", root, device="cpu", tell=silent)
    two = run_study(grid, tmp_path / "two", root, device="cpu", jobs=2, tell=silent)
    assert {key: run["ranks"] for key, run in one.runs.items()} == {key: run["ranks"] for key, run in two.runs.items()}
    lost = grid_of(tmp_path, f"seeds = [0]\nsplit = 'nowhere'\n{FAST}{TWO}")
    with pytest.raises(UsageError, match="no split 'nowhere'"):
        run_study(lost, tmp_path / "two", root, device="cpu", jobs=2, tell=silent)


def test_a_process_that_is_killed_is_a_failed_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "run_in_process", _killed)
    grid = grid_of(tmp_path, f"seeds = [0]\n{FAST}{TWO}")
    study = run_study(grid, tmp_path / "study", root, device="cpu", jobs=2, tell=silent)
    assert set(study.failed) == {RunKey("none", 0), RunKey("cross", 0)}
    assert all("exit code -9" in words for words in study.failed.values())


def test_runs_in_other_processes_save_a_checkpoint_when_the_study_is_stopped(root: Path, tmp_path: Path) -> None:
    text = f"seeds = [0]\n{TWO}"
    grid = grid_of(tmp_path, text, optim={"epochs": 500, "patience": None})
    logs = [tmp_path / "study" / "work" / f"{name}-seed0" / "metrics.jsonl" for name in ("none", "cross")]

    def stop() -> None:
        while not all(log.exists() and log.stat().st_size for log in logs):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    with pytest.raises(TrainingInterrupted, match="0 runs and 0 trials of 'grid' are finished"):
        run_study(grid, tmp_path / "study", root, device="cpu", jobs=2, tell=silent)
    stopper.join()
    assert all((log.parent / "checkpoint" / "state.pt").is_file() for log in logs)
    assert not made(tmp_path / "study", "failed")


def _killed(task: Task, threads: int, answer: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_processes_never_work_on_one_run(root: Path, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, f"seeds = [0]\n{FAST}[variants.a]\n")
    (tmp_path / "study" / "work").mkdir(parents=True)
    with open(tmp_path / "study" / "work" / "a-seed0.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process works on this run"):
            run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)


def test_folds_hold_each_clip_out_once_with_all_its_captions(root: Path, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, f"seeds = [0]\nfolds = 3\n{FAST}{TWO}")
    study = run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)
    assert len(study.runs) == 6
    asked: dict[str, int] = {}
    for fold in range(3):
        result = study.runs[RunKey("none", 0, fold)]
        assert result["ranks"]["items"] == study.runs[RunKey("cross", 0, fold)]["ranks"]["items"]
        assert result["test"]["leakage"]["shared_source_clips"] == 0
        clips, of_query = study.folder.read_items(result["ranks"]["items"])
        assert result["test"]["gallery"] == len(clips)
        assert result["data"]["train"]["clips"] + result["data"]["validation"]["clips"] + len(clips) == 128
        for clip, number in zip(clips, np.bincount(of_query["t2v"], minlength=len(clips)), strict=True):
            asked[clip] = asked.get(clip, 0) + int(number)
    assert len(asked) == 128
    assert set(asked.values()) == {2}
    table = tabulate(study, samples=50)
    assert (table["queries"], table["clips"], table["folds"]) == (256, 128, 3)
    pooled = np.average(
        [study.runs[RunKey("none", 0, fold)]["test"]["t2v"]["R@5"] for fold in range(3)],
        weights=[study.runs[RunKey("none", 0, fold)]["test"]["queries"] for fold in range(3)],
    )
    assert table["variants"][0]["scores"]["t2v/R@5"]["mean"] == pytest.approx(pooled)


def test_the_search_gives_each_variant_as_many_trials_and_looks_at_validation_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""seeds = [0]
{FAST}
[variants.none]
support.captioning = "none"
[variants.none.search]
optim.learning_rate = [1e-9, 3e-3, 1e-8]
[variants.cross]
[search]
trials = 2
overrides.optim.max_steps = 2
[search.values]
loss.caption_weight = [0.1, 0.5]
support.temperature = [0.1]
"""
    grid = grid_of(tmp_path, text)
    scorer = "supportset.train.ablation.worker.score_embeddings"
    monkeypatch.setattr(scorer, lambda *args: pytest.fail("a trial saw the test split"))
    trials = run_until_runs(grid, tmp_path / "study", root, monkeypatch)
    assert len(trials) == 4
    assert {(key.variant, key.trial) for key in trials} == {(v, n) for v in ("none", "cross") for n in (0, 1)}
    assert all("test" not in result and "ranks" not in result for result in trials.values())
    assert all(result["steps"] == 2 and result["seed"] == 1000 for result in trials.values())
    monkeypatch.undo()
    study = run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)
    for variant in grid.variants:
        scores = [study.trials[RunKey(variant.name, 1000, None, n)]["best"]["validation"]["rsum"] for n in (0, 1)]
        best = variant.candidates[int(np.argmax(scores))]
        assert study.chosen[variant.name, None] == best
        result = study.runs[RunKey(variant.name, 0)]
        assert result["chosen"] == best
        assert result["steps"] == 3
        for key, value in best.items():
            section, name = key.split(".")
            assert result["config"][section][name] == value
    table = tabulate(study, samples=50)
    assert len(table["search"]["trials"]) == 4
    assert table["variants"][1]["chosen"] == [study.chosen["cross", None]]


def run_until_runs(grid: Grid, out: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[RunKey, Any]:
    """The trials of a study that is broken off before its first run of the table."""
    made: list[RunKey] = []

    def only_trials(task: Task) -> Outcome:
        if task.key.trial is None:
            return Outcome("stopped")
        made.append(task.key)
        return run_task(task)

    with monkeypatch.context() as patch:
        patch.setattr(study_module, "run_task", only_trials)
        with pytest.raises(TrainingInterrupted, match=f"0 runs and {2 * 2} trials"):
            run_study(grid, out, root, device="cpu", tell=silent)
    return read_study(grid, out).trials


def test_a_search_in_folds_is_made_for_each_fold_and_without_its_clips(root: Path, tmp_path: Path) -> None:
    text = f"seeds = [0]\nfolds = 2\n{FAST}[variants.cross]\n[search]\ntrials = 2\n"
    text += "values.loss.caption_weight = [0.1, 0.5]\n"
    study = run_study(grid_of(tmp_path, text), tmp_path / "study", root, device="cpu", tell=silent)
    assert set(study.trials) == {RunKey("cross", 1000, fold, n) for fold in (0, 1) for n in (0, 1)}
    assert set(study.chosen) == {("cross", 0), ("cross", 1)}
    first = grid_of(tmp_path, text.replace("trials = 2", "trials = 2\nfolds = 'first'"))
    again = read_study(first, tmp_path / "study")
    assert set(again.trials) == {RunKey("cross", 1000, 0, n) for n in (0, 1)}
    assert again.values(first.variants[0], 1) == again.chosen["cross", 0]


def test_tables_are_made_without_a_store_and_say_what_was_asked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grid = grid_of(tmp_path, f"seeds = [0, 1]\nnote = 'Planted.'\n{FAST}{TWO}")
    run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)
    (tmp_path / "study").rename(tmp_path / "moved")
    study = read_study(grid, tmp_path / "moved")
    files = write_tables(study, tabulate(study, samples=200))
    assert {path.name for path in (tmp_path / "moved").iterdir()} == {"runs.jsonl.xz", *(Path(f).name for f in files)}
    assert read_study(grid, tmp_path / "moved").runs == study.runs
    assert [Path(file).name for file in files] == ["table.md", "table.json", "plot.png"]
    page = (tmp_path / "moved" / "table.md").read_text()
    for words in (
        "Planted.",
        "protocol `planted`, split test, gallery 64 clips, 128 queries",
        "seeds: 0, 1",
        "best epoch by rsum on validation (holdout: 12 clips, 24 captions, held out of the training split by source",
        "## Paired difference to `none`",
        "- **none**: `support.captioning = none`",
        "- **cross**: the base",
    ):
        assert words in page, words
    assert (tmp_path / "moved" / "plot.png").read_bytes()[:4] == b"\x89PNG"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert write_tables(study, tabulate(study, samples=200)) == files[:2], "tables without the extra `report`"
    assert "no plot.png: a report needs the package matplotlib" in caplog.text
    table = json.loads((tmp_path / "moved" / "table.json").read_text())
    difference = table["variants"][1]["difference"]
    for metric, score in difference["scores"].items():
        values = [row["scores"][metric]["seeds"] for row in table["variants"]]
        assert score["mean"] == pytest.approx(np.mean(np.subtract(values[1], values[0])))
        assert score["interval"][0] <= score["mean"] + 1e-9 <= score["interval"][1] + 2e-9
    assert difference["p_sign_over_seeds"] in (0.5, 1.0)


def test_runs_that_were_asked_other_queries_are_not_compared(root: Path, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, f"seeds = [0]\n{FAST}{TWO}")
    study = run_study(grid, tmp_path / "study", root, device="cpu", tell=silent)
    study.runs[RunKey("cross", 0)]["ranks"]["items"] = "other"
    with pytest.raises(SupportsetError, match=r"cross-seed0\.json: was scored on other queries"):
        tabulate(study)
    items = tmp_path / "study" / "items"
    next(items.iterdir()).unlink()
    with pytest.raises(SupportsetError, match="missing, and the ranks of the runs mean nothing without it"):
        tabulate(read_study(grid, tmp_path / "study"))


def test_a_damaged_file_is_one_line_that_names_it(root: Path, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, f"seeds = [0]\n{FAST}[variants.a]\n")
    (tmp_path / "study" / "runs").mkdir(parents=True)
    path = tmp_path / "study" / "runs" / "a-seed0.json"
    for content in ("{", "[]", '{"format": "supportset-ablation", "version": 2}'):
        path.write_text(content)
        with pytest.raises(SupportsetError, match=r"a-seed0\.json: .*delete it to run this again"):
            read_study(grid, tmp_path / "study")


def test_sources_of_folds_do_not_mix(root: Path) -> None:
    setting = config()
    seen: set[str] = set()
    for fold in range(4):
        data, test = open_fold(setting, root, fold, 4)
        sources = source_videos(data.dataset)
        assert data.validation is not None
        sides = [{sources[clip] for clip in part.clip_ids} for part in (data.train, data.validation, test)]
        assert len(set.union(*sides)) == sum(map(len, sides))
        assert not seen & set(test.clip_ids)
        seen |= set(test.clip_ids)
        assert data.record["fold"]["clips"] == len(test.clip_ids)
    assert len(seen) == 128
    clips = [f"c{number}" for number in range(20)]
    owners = {clip: f"s{number // 3}" for number, clip in enumerate(clips)}
    assert fold_of_clips(clips, owners, 3) == fold_of_clips(clips[::-1], owners, 3)
