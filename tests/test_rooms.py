"""The import rule between the rooms: extract and train meet only in the store."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"store", "extract", "train", "commands"}
MAY_IMPORT = {"store": set(), "extract": {"store"}, "train": {"store"}, "commands": {"store", "extract", "train"}}
STORE_LIBRARIES = {"numpy", "zarr", "h5py", "pyarrow", "xxhash", "fsspec"}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Top names of everything that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_import_only_what_they_may(room: str) -> None:
    offences = {
        str(path.relative_to(ROOT)): sorted(forbidden)
        for path in sorted((ROOT / room).rglob("*.py"))
        if (forbidden := imports(path) & (ROOMS - {room} - MAY_IMPORT[room]))
    }
    assert not offences


def test_store_imports_only_its_few_libraries() -> None:
    allowed = STORE_LIBRARIES | {"store"} | set(sys.stdlib_module_names)
    offences = {
        path.name: sorted(extra)
        for path in sorted((ROOT / "store").rglob("*.py"))
        if (extra := imports(path, top_level_only=True) - allowed)
    }
    assert not offences


def test_store_opens_without_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "store").rglob("*.py"))
        if path.name != "__init__.py"
    ]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert modules
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_file_has_a_name_that_says_nothing() -> None:
    empty_names = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert not [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name in empty_names]
