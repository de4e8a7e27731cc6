"""What a corruption campaign damages, and how: see :mod:`tests.store.campaign`."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SETS = {"zarr": "none", "hdf5": "none", "zarr-archive": "zstd", "hdf5-archive": "gzip"}  # compression by name
STORE_KINDS = {
    r"dataset\.json|(clips|captions|splits)\.parquet": r"\g<0>",
    r".*/card\.json": "card",
    r".*/\.index\.arrow": "index cache",
    r".*/shards/\w{16}\.parquet": "index",
    r".*/shards/\w{16}\.json": "manifest entry",
    r".*/shards/\w{16}\.zarr(/\w+)?/zarr\.json": "metadata",
    r".*/shards/\w{16}\.zarr/(\w+)/c.*": r"\1",
    r".*/shards/\w{16}\.h5": "arrays",
}
RUN_KINDS = {
    r"model\.safetensors|config\.(json|toml)|(data|best)\.json|metrics\.jsonl|README\.md": r"\g<0>",
    r"checkpoint/state\.pt": "state.pt",
    r"(text_encoder|decoder)/.*": r"\1",
    r"cache/.*": "cache",
    r"tensorboard/.*": "tensorboard",
}


class Target(NamedTuple):
    """A file, and the run whose readers meet it."""

    kind: str
    path: Path
    run: str


def targets(root: Path) -> list[Target]:
    """Every file, by its kind."""
    found = []
    for file in sorted(file for file in (root / "store" / "small").rglob("*") if file.is_file()):
        name = str(file.relative_to(root / "store" / "small"))
        run = next((run for run in reversed(SETS) if f"planted-{run}x" in name), "")
        of = f"{run} " if run else "text " if name.startswith("features") else ""
        run = run or ("text" if of else "zarr")
        found += [Target(of + kind, file, run) for kind in kinds_of(name, STORE_KINDS)]
    for run in ("zarr", "text"):
        folder = root / "runs" / run
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            found += [Target(f"run {kind}", file, run) for kind in kinds_of(str(file.relative_to(folder)), RUN_KINDS)]
    return found


def kinds_of(name: str, kinds: dict[str, str]) -> list[str]:
    return [match.expand(kind) for pattern, kind in kinds.items() if (match := re.fullmatch(pattern, name))]


# Operations. Each returns the new content, None for a deletion.


def flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def zero(content: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(content)), rng.randint(1, max(1, len(content) // 4))
    return content[:at] + bytes(len(content[at : at + length])) + content[at + length :]


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def extend(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice([bytes(1), b"\n", bytes(4096), rng.randbytes(rng.randint(1, 5000))])


OPERATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": flip,
    "zero": zero,
    "truncate": truncate,
    "extend": extend,
}


def damage(target: Target, others: list[Target], operation: str, rng: random.Random) -> bool:
    """Damage a file; False if it is as before."""
    content, when = target.path.read_bytes(), target.path.stat().st_mtime_ns
    if operation == "delete":
        target.path.unlink()
        return True
    if operation == "swap":
        different = [each.path for each in others if each.path != target.path and each.path.read_bytes() != content]
        if not different:
            return False
        other = rng.choice(different)
        target.path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return True
    new = OPERATIONS[operation](content, rng) if content else content
    target.path.write_bytes(new)
    os.utime(target.path, ns=(when, when))  # as a disk does it: nothing tells that the file has changed
    return new != content
