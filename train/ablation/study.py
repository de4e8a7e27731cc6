"""Run a study: the trials of its search, then every variant with every seed. An interrupted study resumes."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from supportset.store.errors import SupportsetError, UsageError
from supportset.train.ablation.grid import Grid, Variant
from supportset.train.ablation.results import RunKey, StudyFolder, config_hash, stamped
from supportset.train.ablation.worker import Outcome, Task, identity, run_in_process, run_task
from supportset.train.config import Config, flat
from supportset.train.device import check_device, launched
from supportset.train.loop.stop import StopRequest, TrainingInterrupted

Finished = dict[RunKey, dict[str, Any]]


@dataclass
class StudyRuns:
    """The finished and failed runs in a study's folder.

    Attributes
    ----------
    grid, folder : Grid and StudyFolder
        Of the study.
    runs, trials : Finished
        Finished ones, by key.
    chosen : dict
        Values that the search chose, by variant and fold.
    failed : dict
        Error of each failed run.
    """

    grid: Grid
    folder: StudyFolder
    runs: Finished = field(default_factory=dict)
    trials: Finished = field(default_factory=dict)
    chosen: dict[tuple[str, int | None], dict[str, Any]] = field(default_factory=dict)
    failed: dict[RunKey, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every run of the grid is finished."""
        return len(self.runs) == len(self.grid.variants) * len(self.grid.seeds) * len(self.grid.fold_numbers)

    def values(self, variant: Variant, fold: int | None) -> dict[str, Any] | None:
        """The searched values that a run of the table uses; None while they are not known."""
        search = self.grid.search
        if search is None:
            return {}
        return self.chosen.get((variant.name, fold if search.folds == "each" else self.grid.search_folds[0]))


def run_study(
    grid: Grid,
    out: str | Path,
    store: str | Path = "features",
    *,
    jobs: int = 1,
    device: str = "auto",
    retry_failed: bool = False,
    keep_models: bool = False,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> StudyRuns:
    """Make every run of a study that is not in its folder yet.

    Parameters
    ----------
    grid : Grid
        What to run.
    out : str or Path
        The study's folder.
    store : str or Path
        Folder of the feature store.
    jobs : int
        Runs at a time; the threads are divided among them, and CUDA devices taken in turn.
    device : str
        As of `train`.
    retry_failed : bool
        Run failed runs again, from their beginning.
    keep_models : bool
        Leave each run's folder below ``out/work``.
    tell : callable
        Called with a line for the user after each run.

    Raises
    ------
    UsageError
        An error that all runs of the study would have.
    TrainingInterrupted
        Stopped on request; the same command resumes, also in the middle of a run.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one run at a time")
    check_device(device)
    if launched()[0] > 1:
        raise UsageError("a study starts its own processes (--jobs): start it without a launcher")
    study = read_study(grid, out)
    if retry_failed:
        for key in study.failed:
            (study.folder.path / key.failure).unlink()
            shutil.rmtree(study.folder.work(key), ignore_errors=True)
        study.failed.clear()
    runner = _Runner(study, str(store), jobs, device, keep_models, tell)
    runner.make(_trial_tasks(study, runner))
    _choose(study)
    runner.make(_run_tasks(study, runner))
    work = study.folder.path / "work"
    if not study.failed and not keep_models:
        shutil.rmtree(work, ignore_errors=True)
    return study


def read_study(grid: Grid, out: str | Path) -> StudyRuns:
    """Read the runs of a grid from a study's folder, without training."""
    study = StudyRuns(grid, StudyFolder(out))
    for key, config in _trial_keys(grid):
        _look_up(study, key, config, study.trials)
    _choose(study)
    for key, variant in _run_keys(grid):
        if (chosen := study.values(variant, key.fold)) is not None:
            _look_up(study, key, variant.config(key.seed, chosen), study.runs)
    return study


def _look_up(study: StudyRuns, key: RunKey, config: Config, into: Finished) -> None:
    result = study.folder.finished(key, config, _asked(study.grid))
    if result is not None:
        into[key] = result
        return
    failure = study.folder.read(key.failure)
    if failure is not None and failure["config_hash"] == config_hash(config):  # of another one, it says nothing
        study.failed[key] = str(failure["error"])


def _asked(grid: Grid) -> dict[str, Any]:
    return {"split": grid.split, "folds": grid.folds}


def _trial_keys(grid: Grid) -> list[tuple[RunKey, Config]]:
    search = grid.search
    if search is None:
        return []
    return [
        (
            RunKey(variant.name, search.seed, fold, number),
            variant.config(search.seed, variant.candidates[number] | flat(search.overrides)),
        )
        for fold in grid.search_folds
        for number in range(search.trials)
        for variant in grid.variants
    ]


def _run_keys(grid: Grid) -> list[tuple[RunKey, Variant]]:
    """Seed by seed, so that an interrupted study has compared all variants on some seeds."""
    return [
        (RunKey(variant.name, seed, fold), variant)
        for seed in grid.seeds
        for fold in grid.fold_numbers
        for variant in grid.variants
    ]


def _choose(study: StudyRuns) -> None:
    """Choose for each variant the trial with the best validation score, the first of equals, once all are finished."""
    grid = study.grid
    if grid.search is None:
        return
    for fold in grid.search_folds:
        for variant in grid.variants:
            keys = [RunKey(variant.name, grid.search.seed, fold, number) for number in range(grid.search.trials)]
            if all(key in study.trials for key in keys):
                best = max(keys, key=lambda key: trial_score(study.trials[key]))
                assert best.trial is not None
                study.chosen[variant.name, fold] = dict(variant.candidates[best.trial])


def trial_score(result: Mapping[str, Any]) -> float:
    """Score of a trial: the validation score that its models were selected by."""
    best = result["best"]
    return float(best["validation"][best["select_by"]])


@dataclass(frozen=True)
class _Active:
    """A run in a separate process, and its slot among the parallel runs."""

    process: BaseProcess
    answer: Connection
    task: Task
    place: int

    def outcome(self) -> Outcome:
        """How it ended; a process that ended without an answer has failed."""
        self.process.join()
        with self.answer:
            try:
                if self.answer.poll():
                    answer: Outcome = self.answer.recv()
                    return answer
            except EOFError:
                pass
        code = self.process.exitcode
        return Outcome("failed", f"its process ended with exit code {code} (-9: killed, often because memory ran out)")


class _Runner:
    """Make runs, some in parallel, and report each."""

    def __init__(
        self, study: StudyRuns, store: str, jobs: int, device: str, keep_models: bool, tell: Callable[[str], None]
    ) -> None:
        self.study, self.store, self.jobs, self.keep_models, self.tell = study, store, jobs, keep_models, tell
        gpus = torch.cuda.device_count() if device == "auto" and jobs > 1 else 0
        self.devices = [f"cuda:{number}" for number in range(gpus)] or [device]
        self.began, self.made, self.left = time.monotonic(), 0, 0

    def task(self, key: RunKey, config: Config, chosen: dict[str, Any]) -> Task:
        """A task of this study."""
        return Task(
            key,
            config.model_dump(mode="json"),
            _asked(self.study.grid),
            chosen,
            str(self.study.folder.path),
            self.store,
            self.devices[0],
            self.keep_models and key.trial is None,
        )

    def make(self, tasks: Sequence[Task]) -> None:
        """Make the runs; failed ones are recorded, and the others continue."""
        if not tasks:
            return
        kind = "trials" if tasks[0].key.trial is not None else "runs"
        self.left, self.made, self.began = len(tasks), 0, time.monotonic()
        self.tell(f"{self.study.grid.name}: {len(tasks)} {kind} to make, {self.jobs} at a time")
        if self.jobs == 1:
            for task in tasks:
                self._take(task, run_task(task))
        else:
            self._parallel(list(tasks))

    def _parallel(self, waiting: list[Task]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["supportset.train.ablation.worker"])  # torch is imported once, not for each run
        threads = max(1, torch.get_num_threads() // self.jobs)
        active: dict[Any, _Active] = {}
        with StopRequest() as stop:
            try:
                while active or waiting:
                    while waiting and len(active) < self.jobs:
                        place = min(set(range(self.jobs)) - {each.place for each in active.values()})
                        task = replace(waiting.pop(0), device=self.devices[place % len(self.devices)])
                        here, there = context.Pipe(duplex=False)
                        process = context.Process(target=run_in_process, args=(task, threads, there))
                        process.start()
                        there.close()
                        active[process.sentinel] = _Active(process, here, task, place)
                    for sentinel in wait(list(active), timeout=0.5):
                        ended = active.pop(sentinel)
                        self._take(ended.task, ended.outcome())
                    if stop.requested:
                        raise _interrupted(self.study)
            finally:
                for each in active.values():
                    each.process.terminate()  # it saves a checkpoint
                for each in active.values():
                    each.process.join()

    def _take(self, task: Task, outcome: Outcome) -> None:
        """Enter how a run ended."""
        key = task.key
        if outcome.kind == "stopped":
            raise _interrupted(self.study)
        if outcome.kind == "misused":
            raise UsageError(f"{key.stem}: {outcome.words}")
        self.made, self.left = self.made + 1, self.left - 1
        rest = (time.monotonic() - self.began) / self.made * self.left
        after = f"; {self.left} left, about {rest / 60:.0f} min" if self.left else ""
        if outcome.kind == "failed":
            self.study.failed[key] = outcome.words
            said = {**identity(task), "error": outcome.words, "trace": outcome.trace}
            self.study.folder.write(key.failure, stamped(said))
            self.tell(f"{key.stem}: FAILED: {outcome.words}{after}")
            return
        (self.study.folder.path / key.failure).unlink(missing_ok=True)
        result = self.study.folder.read(key.path)
        assert result is not None
        (self.study.runs if key.trial is None else self.study.trials)[key] = result
        self.tell(f"{key.stem}: {outcome.words}{after}")


def _trial_tasks(study: StudyRuns, runner: _Runner) -> list[Task]:
    values = {variant.name: variant.candidates for variant in study.grid.variants}
    return [
        runner.task(key, config, values[key.variant][key.trial or 0])
        for key, config in _trial_keys(study.grid)
        if key not in study.trials and key not in study.failed
    ]


def _run_tasks(study: StudyRuns, runner: _Runner) -> list[Task]:
    tasks = []
    for key, variant in _run_keys(study.grid):
        if key in study.runs or key in study.failed:
            continue
        if (chosen := study.values(variant, key.fold)) is None:
            continue  # a trial of it failed
        tasks.append(runner.task(key, variant.config(key.seed, chosen), chosen))
    return tasks


def _interrupted(study: StudyRuns) -> SupportsetError:
    return TrainingInterrupted(
        f"stopped; {len(study.runs)} runs and {len(study.trials)} trials of {study.grid.name!r} are finished. The same "
        "command resumes"
    )
