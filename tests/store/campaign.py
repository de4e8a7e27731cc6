"""A corruption campaign: every kind of file of a store and of a run, damaged in every way, one file a trial.

After each trial, `store verify` must tell of damage to the store, and `train`, `eval` and `search` give the answer of
before or one clear line: never another answer, never a traceback. A table at the end; exit code 1 if a trial failed::

    python -m tests.store.campaign --trials 500 --seed 1

Each trial runs in a process of its own, forked, so that a crash is a result like others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.extract.text.encoders.registry import load_text_encoder
from supportset.extract.text.run import extract_text
from supportset.store.files import hash_file
from supportset.store.format.card import FeatureCard
from supportset.store.read import index_cache
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from supportset.store.write.writer import FeatureWriter
from supportset.train.run_folder import to_toml
from tests.extract.text_models import save_bert
from tests.store.corruption import OPERATIONS, SETS, damage, targets
from tests.train.small_store import config, plant, recipe

RUNS = (*SETS, "text")
LOADED = ("train.loop.training", "train.evaluate", "train.encode", "search.run", "search.searcher", "train.device")
SECONDS = 120  # a trial that takes longer hangs


class Outcome(NamedTuple):
    """What a trial gave: of verify and of each reader ``same``, ``error``, ``different`` or ``traceback``."""

    kind: str
    operation: str
    path: str
    verify: str
    readers: dict[str, str]
    said: dict[str, str]

    @property
    def fault(self) -> str:
        """What is wrong with it; empty if nothing."""
        wrong = [f"{name} {told}" for name, told in self.readers.items() if told not in ("same", "error")]
        if self.verify not in ("told", "silent", "-"):
            wrong.append(f"verify {self.verify}")
        if self.verify == "silent" and set(self.readers.values()) != {"same"}:
            wrong.append("verify silent")
        return ", ".join(wrong)


# The workplace


def build(root: Path) -> dict[str, Any]:
    """Make a store of four sets of features and one of text, and a run for each; return what the readers say."""
    planted = plant(root / "store")
    (first,) = (root / "store" / "small" / "features").iterdir()
    features = list(FeatureSet.open(first).scan())
    for name, compression in SETS.items():
        shard_format = name.partition("-")[0]
        card = FeatureCard(recipe(backbone=f"planted:{name}x"), {})
        path = Path(feature_set_path(root / "store", "small", card.recipe))
        with FeatureWriter(path, card, shard_format=shard_format, clips_per_shard=100) as writer:
            for clip_id, values, timestamps in features:
                writer.add(clip_id, values, timestamps)
        if compression != "none":
            convert_feature_set(path, shard_format, compress=compression)
    shutil.rmtree(first)
    save_bert(root / "bert")
    extract_text(
        planted.dataset,
        root / "store",
        load_text_encoder(str(root / "bert"), 24, None),
        device="cpu",
        progress=False,
        captions_per_shard=200,
    )
    for run in RUNS:
        words = "zarrx" if run == "text" else f"{run}x"
        text = {"features": "small/hf-bert", "head": "mean"} if run == "text" else {}
        settings = config(
            data={"features": [words]},
            text=text,
            support={"captioning": "cross"},
            optim={"epochs": 1, "checkpoint_every": 2, "log_every": 1},
        )
        (root / f"{run}.toml").write_text(to_toml(settings))
        call(root, "train", root / f"{run}.toml", "--out", root / "runs" / run)
        call(root, "search", root / "runs" / run, "a red ball", *encoder(root, run))  # for the cache
    return {run: read(root, run) for run in RUNS}


def encoder(root: Path, run: str) -> list[object]:
    return ["--encoder", root / "bert"] if run == "text" else []


def call(root: Path, *words: object) -> tuple[str, str]:
    """Run a command in this process: what became of it, and its answer."""
    device = [] if words[0] == "store" else ["--device", "cpu"]
    result = CliRunner().invoke(cli, [str(word) for word in [*words, *device, "--store", root / "store"]])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "traceback", repr(result.exception)
    if result.exit_code:
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        clear = len(errors) == 1 and str(root) in result.stderr and "Traceback" not in result.stderr
        return "error" if clear else "unclear", result.stderr.replace(str(root), ".")
    return "done", result.stdout.replace(str(root), ".")


def read(root: Path, run: str, *, resume: bool = True) -> dict[str, tuple[str, str]]:
    """What each reader says of a run and the store."""
    folder, settings = root / "runs" / run, root / f"{run}.toml"
    found = {
        "eval": call(root, "eval", folder, "--json"),
        "holdout": call(root, "eval", folder, "--split", "holdout", "--json"),
        "search": call(root, "search", folder, "a red ball", "--json", "-k", 20, *encoder(root, run)),
    }
    new = shutil.copytree(folder, root / "resumed") if resume else root / "new"
    words = ["optim.epochs=2", "--resume"] if resume else []
    told, answer = call(root, "train", settings, *words, "--out", new, "--json")
    if told == "done":
        answer = hash_file(new / "model.safetensors") + re.sub(r'"seconds": .*', "", answer)
    found["resume" if resume else "train"] = told, answer
    shutil.rmtree(new, ignore_errors=True)
    return found


def trial(template: Path, kind: str, operation: str, seed: int, expected: dict[str, Any]) -> Outcome | None:
    """Damage a file of a copy, and ask everything of it; None where nothing can be damaged so."""
    rng = random.Random(seed)
    root = Path(shutil.copytree(template, template.with_name(f"trial-{seed}")))
    try:
        every = targets(root)
        target = rng.choice([each for each in every if each.kind == kind])
        alike = [each for each in every if each.kind == kind and each.run == target.run]
        beside = [each for each in every if each.path.parent == target.path.parent]
        if not damage(target, alike if len(alike) > 1 else beside, operation, rng):
            return None
        of_run = kind.startswith("run ")
        verify = "-"
        said = {}
        if not of_run:
            told, said["verify"] = call(root, "store", "verify")
            verify = {"done": "silent", "error": "told"}.get(told, told)
        readers = {}
        for name, (told, answer) in read(root, target.run, resume=of_run).items():
            same = told == "done" and answer == expected[target.run][name][1]
            readers[name] = "same" if same else "different" if told == "done" else told
            said[name] = answer
        return Outcome(kind, operation, str(target.path.relative_to(root)), verify, readers, said)
    finally:
        shutil.rmtree(root)


def forked(work: Callable[[], Any]) -> Any:
    """What a function returns, called in a process of its own; RuntimeError if that dies."""
    here, there = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            signal.alarm(SECONDS)
            os.close(here)
            with os.fdopen(there, "w") as pipe:
                json.dump(work(), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(there)
    with os.fdopen(here) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise RuntimeError(f"ended with {status}")
    return json.loads(text)


def campaign(trials: int, seed: int, told: Callable[[str], object] = print) -> list[Outcome]:
    """Run the trials, spread evenly over kinds and operations."""
    rng = random.Random(seed)
    outcomes: list[Outcome] = []
    index_cache.SHARDS_WORTH_IT = 1  # as large sets have it
    for module in LOADED:  # once, not in each process
        importlib.import_module(f"supportset.{module}")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="campaign-", dir=memory) as where:
        template = Path(where) / "template"
        expected = forked(lambda: build(template) | {"new": {run: read(template, run, resume=False) for run in RUNS}})
        fresh = expected.pop("new")
        for run in RUNS:
            wrong = [told for told, _ in [*expected[run].values(), *fresh[run].values()] if told != "done"]
            assert not wrong, expected[run] | fresh[run]
            expected[run] |= fresh[run]
        kinds = sorted({each.kind for each in targets(template)})
        pairs: list[tuple[str, str]] = []
        while len(outcomes) < trials:
            if not pairs:
                pairs = [(kind, operation) for kind in kinds for operation in (*OPERATIONS, "delete", "swap")]
                rng.shuffle(pairs)
            kind, operation = pairs.pop()
            number = rng.randrange(1 << 30)
            try:
                found = forked(lambda: trial(template, kind, operation, number, expected))  # noqa: B023 - called now
            except RuntimeError as error:
                found = (kind, operation, f"trial-{number}", "-", {"process": str(error)}, {})
                shutil.rmtree(template.with_name(f"trial-{number}"), ignore_errors=True)
            if found is not None:
                outcomes.append(Outcome(*found))
                if outcomes[-1].fault:
                    told(f"FAULT {outcomes[-1].fault}: {json.dumps(outcomes[-1], ensure_ascii=False)[:3000]}")
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """A line a kind: trials, what verify told, what the readers gave, faults."""
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    lines = ["| file | trials | verify told | silent | readers: same | error | faults |", "| --- |" + " ---: |" * 6]
    for kind, those in [*sorted(by_kind.items()), ("all", outcomes)]:
        verify = Counter(each.verify for each in those)
        readers = Counter(told for each in those for told in each.readers.values())
        cells = [len(those), verify["told"], verify["silent"], readers["same"], readers["error"]]
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} | {sum(bool(each.fault) for each in those)} |")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON lines of all outcomes.")
    given = parser.parse_args()
    began = time.monotonic()
    outcomes = campaign(given.trials, given.seed, partial(print, flush=True))
    if given.out:
        given.out.write_text("".join(json.dumps(each._asdict()) + "\n" for each in outcomes))
    print(table(outcomes))
    faults = sum(bool(each.fault) for each in outcomes)
    print(f"{len(outcomes)} trials, {faults} faults, {time.monotonic() - began:.0f} s, seed {given.seed}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
