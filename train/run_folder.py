"""The run folder: every file that a training run writes.

config.toml                the resolved configuration
data.json                  feature recipes, counts, clips left out, held-out clips, leakage
metrics.jsonl              one record a line: losses every few steps, validation every epoch
tensorboard/               the same as TensorBoard events
model.safetensors, config.json, tokenizers    the best model by validation
README.md                  the model card, written when the run ends and by `report`
best.json                  which epoch that is, and its scores
checkpoint/state.pt        what an exact resume needs
eval/                      scores and per-query ranks
cache/                     clip embeddings of searches; may be deleted
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder, hash_file, sync_folder, telling
from supportset.train.config import Config, flat, load_config
from supportset.train.sealed import check_text, sealed, sealed_text, unsealed

WEIGHTS = "model.safetensors"


class Saveable(Protocol):
    """A model that saves itself into a folder."""

    def save_pretrained(self, folder: str | Path) -> None: ...


class RunFolder:
    """Paths and files of one run.

    Parameters
    ----------
    path : str or Path
        The folder; nothing is created until `create`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoint = self.path / "checkpoint" / "state.pt"
        self.eval = self.path / "eval"
        self.cache = self.path / "cache"
        self.tensorboard = self.path / "tensorboard"
        self.config = self.path / "config.toml"

    @property
    def started(self) -> bool:
        """Whether a run's configuration is there."""
        return self.config.is_file()

    def check_usable(self, config: Config, resume: bool) -> None:
        """Refuse what `check_same` refuses if a run resumes, else what `check_free` does."""
        if str(self.path).encode("utf-8", "replace") != os.fsencode(self.path):
            raise UsageError(
                f"{self.path}: this path is not UTF-8, and TensorBoard cannot write to it: give another --out"
            )
        if resume and self.started:
            self.check_same(config)
        else:
            self.check_free()

    def check_free(self) -> None:
        """Refuse a folder that has anything in it."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            mend = "continue it with --resume, or give another --out" if self.started else "give another --out"
            raise UsageError(f"{self.path}: the run folder is not empty; {mend}")

    def check_same(self, config: Config) -> None:
        """Refuse to resume with a configuration that would have given another run.

        How long to train (``optim.epochs``, ``optim.max_steps``, ``optim.patience``), how often to log and to save, and
        the name may differ; but not ``optim.epochs`` where the learning rate falls to nothing over them.
        """
        free = {"name"} | {
            f"optim.{key}" for key in ("epochs", "max_steps", "patience", "log_every", "checkpoint_every")
        }
        there, here = (flat(each.model_dump()) for each in (self.load_config(), config))
        if config.optim.schedule != "constant":
            free.remove("optim.epochs")
        differing = [key for key in here if key not in free and here[key] != there[key]]
        if differing:
            differs = ", ".join(f"{key} is {there[key]!r} there and {here[key]!r} here" for key in differing)
            if "optim.epochs" in differing:
                differs += f" (the learning rate of a {config.optim.schedule} schedule depends on it)"
            raise UsageError(
                f"{self.path}: a resumed run keeps its configuration: {differs}; set them back, or start a new run "
                "with another --out"
            )

    def create(self, config: Config, record: Mapping[str, Any]) -> None:
        """Make the folder, with the configuration and what is known of the data."""
        with telling("make the run folder", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.write_json("data.json", sealed(record))
        self.write_text("config.toml", sealed_text(to_toml(config)))

    def load_config(self) -> Config:
        """The configuration of the run; UsageError where there is no run, SupportsetError where it is damaged."""
        if not self.started:
            raise UsageError(f"{self.path}: not a run folder, it has no config.toml; `train` makes one below runs/")
        check_text(self.config)
        return load_config(self.config)

    def data_record(self) -> dict[str, Any]:
        """Read ``data.json``: the features, clips and captions the run was trained on."""
        return self.read_json("data.json")

    def model_folder(self) -> Path:
        """The folder to load the model from; UsageError while there is none."""
        self.load_config()
        if not (self.path / WEIGHTS).is_file():
            raise UsageError(
                f"{self.path}: no {WEIGHTS} yet; finish an epoch with: train ... --out {self.path} --resume"
            )
        return self.path

    def model_hash(self) -> str:
        """Content hash of the model's weights and configuration."""
        folder = self.model_folder()
        return ":".join(hash_file(folder / name).partition(":")[2] for name in (WEIGHTS, "config.json"))

    def save_model(self, model: Saveable, best: Mapping[str, Any]) -> None:
        """Replace the saved model; each file by rename, the weights last."""
        temporary = self.path / ".model.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        with telling("save the model", self.path, "--resume continues from the last complete checkpoint"):
            model.save_pretrained(temporary)
            for file in temporary.rglob("*"):
                if file.is_file():
                    flush(file)
            for item in sorted(temporary.iterdir(), key=lambda item: item.name == WEIGHTS):
                there = self.path / item.name
                if there.is_dir():  # a tokenizer: the same during a run, unless another version of a library resumes it
                    if _contents(there) == _contents(item):
                        continue
                    os.replace(there, temporary / f"{item.name}.old")
                os.replace(item, there)
            sync_folder(self.path)
            shutil.rmtree(temporary)
        self.write_json("best.json", sealed(best))

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, without its hash."""
        path = self.path / name
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise SupportsetError(f"{path}: cannot be read ({error}); the run folder is damaged: train again") from None
        if not isinstance(content, dict):
            raise SupportsetError(f"{path}: damaged, it is no JSON object: restore it, or train again")
        return unsealed(content, path)

    def read_best(self) -> dict[str, Any]:
        """``best.json``: ``epoch`` and ``step`` of the saved model, ``select_by``, and ``validation``, its scores."""
        best = self.read_json("best.json")
        if lacking := [key for key in ("epoch", "step", "select_by", "validation") if key not in best]:
            raise SupportsetError(
                f"{self.path / 'best.json'}: has no {lacking[0]!r}, it is damaged: restore it, or train again"
            )
        return best

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, complete or not at all; ``name`` may include a folder."""
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, complete or not at all; ``name`` may include a folder."""
        target = self.path / name
        # "replace": a page or card may name a folder whose name is not UTF-8
        LocalFolder(target.parent).put({target.name: [text.encode("utf-8", "replace")]})


def _contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def flush(file: Path) -> None:
    """Flush a file's content to the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_toml(config: Config) -> str:
    """A configuration as TOML that `load_config` reads back to the same; keys without a value are left out."""
    tree = config.model_dump()
    tables = {key: value for key, value in tree.items() if isinstance(value, dict)}
    lines = [_toml_line(key, value) for key, value in tree.items() if key not in tables and value is not None]
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        lines += [_toml_line(key, value) for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml_line(key: str, value: Any) -> str:
    # JSON writes strings, booleans, integers, floats and flat lists as TOML does (a float has a point or an exponent).
    return f"{key} = {json.dumps(value, ensure_ascii=False).replace(chr(0x7F), chr(92) + 'u007f')}"
