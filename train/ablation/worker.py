"""One run of a study, from its configuration to its JSON file, in this process or a separate one."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from supportset.evaluate.scores import score_embeddings
from supportset.evaluate.splits import Split, default_split, leakage, read_split, source_videos
from supportset.store.errors import SupportsetError, UsageError
from supportset.train.ablation.results import RunKey, StudyFolder, config_hash, recorded_ranks, stamped
from supportset.train.analysis.support_analysis import support_stats
from supportset.train.config import Config, parse_config
from supportset.train.data.folds import open_fold
from supportset.train.data.source import RunData, open_run_data
from supportset.train.device import choose_device
from supportset.train.encode import encode_gallery, encode_tokens, read_text
from supportset.train.loop.stop import TrainingInterrupted
from supportset.train.loop.training import train
from supportset.train.model.model import SupportSetModel
from supportset.train.run_folder import RunFolder


@dataclass(frozen=True)
class Task:
    """One run to make; small, because it is sent to another process.

    Attributes
    ----------
    key : RunKey
        Which run.
    config : dict
        Its configuration, as a tree.
    asked : dict
        ``split`` and ``folds`` of the grid: what the run is scored on.
    chosen : dict
        The values that a search chose for it, or that the trial tries.
    study, store : str
        Folders.
    device : str
        As of `train`.
    keep_models : bool
        Leave the run folder, with the model, below ``work/``.
    """

    key: RunKey
    config: dict[str, Any]
    asked: dict[str, Any]
    chosen: dict[str, Any]
    study: str
    store: str
    device: str
    keep_models: bool = False

    def parsed(self) -> Config:
        """The configuration."""
        return parse_config(self.config, self.key.stem)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    kind : str
        ``done``, ``failed`` (recorded, the study continues), ``stopped`` (on request, a checkpoint is kept) or
        ``misused`` (the user's mistake: the study ends).
    words : str
        The score, or the error.
    trace : str
        Where in the program, for a failure that it did not expect.
    """

    kind: str
    words: str = ""
    trace: str = ""


def run_task(task: Task) -> Outcome:
    """Train, score and write the JSON file; the training's lines go to a log beside its run folder."""
    folder = StudyFolder(task.study)
    work = folder.work(task.key)
    try:
        with _alone(work.with_name(f"{work.name}.lock")):
            with open(work.with_name(f"{work.name}.log"), "a", encoding="utf-8") as log, redirect_stderr(log):
                result = _trained(task, folder)
            folder.write(task.key.path, stamped(result))
            (folder.path / task.key.failure).unlink(missing_ok=True)
            if not task.keep_models:
                shutil.rmtree(work, ignore_errors=True)
            return Outcome("done", f"{_headline(result)}, {result['seconds']:.0f} s")
    except TrainingInterrupted:
        return Outcome("stopped")
    except UsageError as error:
        return Outcome("misused", str(error))
    except Exception as error:  # an error in one run must not end the others: the study records it
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, SupportsetError):
            reason = f"{type(error).__name__}: {reason}"
        return Outcome("failed", reason, "" if isinstance(error, SupportsetError) else traceback.format_exc())


def run_in_process(task: Task, threads: int, answer: Connection) -> None:
    """`run_task` in a separate process. Ctrl-C at the terminal does not reach it: the study stops it."""
    os.setpgid(0, 0)
    torch.set_num_threads(threads)
    answer.send(run_task(task))
    answer.close()


def open_task_data(task: Task) -> tuple[RunData, Split | None]:
    """Open what a run trains on, and the clips to score it on; None for a trial, which sees validation only."""
    config = task.parsed()
    if task.asked["folds"]:
        assert task.key.fold is not None
        data, test = open_fold(config, task.store, task.key.fold, task.asked["folds"])
        if data.text is not None:
            data.text.check(test.captions)
        return data, None if task.key.trial is not None else test
    data = open_run_data(config, task.store)
    if task.key.trial is not None:
        return data, None
    split = task.asked["split"] or default_split(data.dataset, config.data.protocol, config.data.train_split)
    _refuse_as_test(config, data, split)
    test = read_split(data.dataset, config.data.protocol, split, set(data.features.clip_ids))
    if not test.captions:
        raise UsageError(f"{data.dataset.name}: split {split!r} has no captions, so no queries")
    if data.text is not None:
        data.text.check(test.captions)
    return data, test


def _trained(task: Task, folder: StudyFolder) -> dict[str, Any]:
    config = task.parsed()
    data, test = open_task_data(task)
    work = RunFolder(folder.work(task.key))
    if work.started:
        try:
            work.check_same(config)
        except UsageError:  # of an earlier configuration
            shutil.rmtree(work.path)
    if not work.started and work.path.exists():
        shutil.rmtree(work.path)
    done = train(config, task.store, work.path, resume=True, device=task.device, data=data)
    result = {
        **identity(task),
        "config": config.model_dump(mode="json"),
        "data": {
            "dataset": data.dataset.name,
            "features": [entry["folder"] for entry in data.record["features"]],
            "fingerprint": data.record["fingerprint"],
            **{side: _counts(data.record[side]) for side in ("train", "validation")},
        },
        "best": done.best,
        "epochs": done.epochs,
        "steps": done.steps,
        "seconds": round(done.seconds, 1),
        "made": {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "torch": torch.__version__,
            "device": str(choose_device(task.device)),
            "machine": platform.machine(),
        },
    }
    if test is None:
        return result
    model = SupportSetModel.from_pretrained(work.path, device=str(choose_device(task.device)))
    video = encode_gallery(model, data.features, test.present, config.data.max_steps)
    text = encode_tokens(model, read_text(model, test.captions, config.data.max_tokens, data.text))
    scores = score_embeddings(test, video, text)
    sources = source_videos(data.dataset)
    return result | {
        "test": {
            "protocol": config.data.protocol,
            "split": test.name,
            "gallery": len(test.clip_ids),
            "queries": len(test.captions),
            "missing": len(test.missing),
            "t2v": scores.t2v,
            "v2t": scores.v2t,
            "rsum": scores.rsum,
            "leakage": leakage(data.train, test, sources),
        },
        "attention": support_stats(
            text,
            video,
            test.captions,
            test.present,
            sources,
            temperature=config.support.temperature,
            size=config.optim.batch_size,
        ),
        "ranks": {
            "items": folder.write_items(test, scores),
            "t2v": recorded_ranks(scores.t2v_ranks),
            "v2t": recorded_ranks(scores.v2t_ranks),
        },
    }


def identity(task: Task) -> dict[str, Any]:
    """Fields that identify a run in its files."""
    key = task.key
    return {
        "variant": key.variant,
        "seed": key.seed,
        "fold": key.fold,
        "trial": key.trial,
        "split": task.asked["split"],
        "folds": task.asked["folds"],
        "chosen": task.chosen,
        "config_hash": config_hash(task.parsed()),
    }


def _counts(side: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if side is None else {key: side[key] for key in ("split", "clips", "captions")}


def _headline(result: dict[str, Any]) -> str:
    if "test" in result:
        test = result["test"]
        return f"R@1 {test['t2v']['R@1']:.1f} t2v, {test['v2t']['R@1']:.1f} v2t, rsum {test['rsum']:.1f}"
    return f"validation rsum {result['best']['validation']['rsum']:.1f}"


def _refuse_as_test(config: Config, data: RunData, split: str) -> None:
    """A study is never reported on clips that its models were trained or selected on."""
    if split == config.data.train_split or split == config.data.validation_split:
        raise UsageError(f"split = {split!r}: the models of the study are trained or selected on it; name another")
    asked = data.dataset.split_clips(config.data.protocol, split)
    used = {*data.train.clip_ids, *(data.validation.clip_ids if data.validation is not None else ())}
    if shared := [clip_id for clip_id in asked if clip_id in used]:
        raise UsageError(
            f"split = {split!r}: {len(shared)} of its {len(asked)} clips (the first: {shared[0]!r}) are trained or "
            "selected on; name a split that shares none"
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock while the process lives; UsageError if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{path}: another process works on this run; wait for it, or give this study another --out"
            ) from None
        yield
