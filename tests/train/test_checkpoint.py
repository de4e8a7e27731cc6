"""Checkpoints: damage is found, a full disk is one line, and a resumed run repeats no record."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from supportset.store.errors import SupportsetError
from supportset.train.loop import checkpoint as module
from supportset.train.loop.checkpoint import Checkpoint, Position
from supportset.train.loop.ranks import Ranks
from supportset.train.loop.training_log import MetricsFile
from supportset.train.run_folder import RunFolder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    model = torch.nn.Linear(7, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 7)).sum().backward()
    optimizer.step()
    alone: Any = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    return Checkpoint(tmp_path / "checkpoint" / "state.pt", model, optimizer, None, None, "print", Ranks(alone))


def test_every_damage_is_found(checkpoint: Checkpoint) -> None:
    checkpoint.save(Position(step=3))
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    intact = checkpoint.path.read_bytes()
    rng = np.random.default_rng(0)
    silent = []
    for trial in range(120):
        content = bytearray(intact)
        first = int(rng.integers(0, len(content)))
        if trial % 3 == 0:
            content[first] ^= 1 << int(rng.integers(8))
        elif trial % 3 == 1:
            content[first : first + 40] = bytes(len(content[first : first + 40]))
        else:
            content = content[:first]
        checkpoint.path.write_bytes(content)
        try:
            position = checkpoint.load()
        except SupportsetError as error:
            message = str(error)
            if "\n" in message or not message.startswith(str(checkpoint.path)):
                silent.append((trial, first))
            continue
        # Nothing but the mark or the padding of zeros was changed: what is read is right.
        same = all(torch.equal(value, before[name]) for name, value in checkpoint.model.state_dict().items())
        if bytes(content) != intact and not (same and position.step == 3):
            silent.append((trial, first))
    assert silent == []


def test_a_checkpoint_of_version_0_1_has_no_hash_and_still_loads(checkpoint: Checkpoint) -> None:
    checkpoint.save(Position(step=3))
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[: -module._TRAILER])
    assert checkpoint.load().step == 3


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(Position(step=3))
    intact = checkpoint.path.read_bytes()

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 300

        def write(self, data: Any) -> int:
            self.left -= len(bytes(data))
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(data))

    write_hashed = module._write_hashed
    monkeypatch.setattr(module, "_write_hashed", lambda state, file: write_hashed(state, Full(file)))  # type: ignore[arg-type]
    with pytest.raises(SupportsetError, match=r"state\.pt.*No space left on device") as error:
        checkpoint.save(Position(step=6))
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("run again: --resume continues from the last complete checkpoint")
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["state.pt"]
    assert checkpoint.path.read_bytes() == intact


def test_what_a_resumed_run_repeats_is_recorded_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = MetricsFile(folder, 0)
    first.write("train", 8, {"loss": 1.0})
    first.write("validation", 8, {"rsum": 2.0})  # and then the process is killed, before the checkpoint of step 8
    first.close()
    again = MetricsFile(folder, 8)  # the checkpoint after the last batch
    again.write("validation", 8, {"rsum": 2.0})
    again.write("train", 9, {"loss": float("nan")})
    again.close()
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in records] == [("train", 8), ("validation", 8), ("train", 9)]
    assert records[2]["loss"] is None
