"""The import rules: between rooms, between the sub-packages of a room, and no cycles anywhere."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "store": set(),
    "evaluate": {"store"},
    "extract": {"store"},
    "train": {"store", "evaluate"},
    "search": {"store", "evaluate", "extract", "train"},
    "commands": {"store", "evaluate", "extract", "train", "search"},
}
# What a rule forbids and one module may, inside functions: a run that trains a text tower has extraction load it
EXCEPTIONS = {"supportset.train.model.weights.tower": "supportset.extract.text.encoders."}
ROOMS = set(MAY_IMPORT)
LIBRARIES = {
    "store": {"numpy", "zarr", "h5py", "pyarrow", "xxhash", "fsspec", "google_crc32c"},
    "evaluate": {"numpy"},
}
FILES = {
    ".".join(("supportset", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for room in sorted(ROOMS)
    for path in sorted((ROOT / room).rglob("*.py"))
}


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Full names of all modules that a file imports; names for type checkers alone are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in _statements(tree) if top_level_only else _executed(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = inner & FILES.keys()
            names |= modules | ({node.module} if modules != inner else set())
    return names


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in tree.body)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a file without what stands under ``if TYPE_CHECKING``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _executed(child)


def unit(module: str, room: str) -> str:
    """The sub-package of a room that a module belongs to, or the module itself where it lies in the room."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[1] == room else ""


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_import_only_what_they_may(room: str) -> None:
    allowed = {room} | MAY_IMPORT[room]
    offences = {
        module: sorted(others)
        for module, path in FILES.items()
        if module.split(".")[1] == room
        and (
            others := {
                name
                for name in imported(path) & FILES.keys()
                if name.split(".")[1] not in allowed and not name.startswith(EXCEPTIONS.get(module, "-"))
            }
        )
    }
    assert not offences


def test_an_exception_is_imported_only_when_it_is_needed() -> None:
    for module, other in EXCEPTIONS.items():
        assert {name for name in imported(FILES[module]) if name.startswith(other)}
        assert not {name for name in imported(FILES[module], top_level_only=True) if name.startswith(other)}


def test_nothing_is_imported_by_a_bare_name() -> None:
    everywhere = [path for folder in (*sorted(ROOMS), "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert not {
        str(path): bare for path in everywhere if (bare := {n for n in imported(path) if n.split(".")[0] in ROOMS})
    }


@pytest.mark.parametrize("room", sorted(LIBRARIES))
def test_store_and_evaluate_import_only_their_few_libraries(room: str) -> None:
    allowed = LIBRARIES[room] | {"supportset"} | set(sys.stdlib_module_names)
    offences = {
        module: sorted(extra)
        for module, path in FILES.items()
        if module.split(".")[1] == room
        and (extra := {name.partition(".")[0] for name in imported(path, top_level_only=True)} - allowed)
    }
    assert not offences


def test_no_module_imports_itself_through_others() -> None:
    # a process started with -m imports itself by its name, so that others can unpickle what it sends
    graph = {module: imported(path) & FILES.keys() - {module} for module, path in FILES.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_sub_packages_of_a_room_have_no_cycles(room: str) -> None:
    graph: dict[str, set[str]] = {}
    for module, path in FILES.items():
        if here := unit(module, room):
            others = {unit(name, room) for name in imported(path) & FILES.keys()}
            graph.setdefault(here, set()).update(others - {here, ""})
    assert list(TopologicalSorter(graph).static_order()) or not graph


def test_the_method_knows_nothing_of_the_loop() -> None:
    forbidden = ("supportset.train.loop", "supportset.train.data", "supportset.train.ablation", "supportset.evaluate")
    offences = {
        module: sorted(names)
        for module, path in FILES.items()
        if module.startswith("supportset.train.model.")
        and (names := {name for name in imported(path) if name.startswith(forbidden)})
    }
    assert not offences


def test_store_and_evaluate_open_without_torch() -> None:
    modules = [module for module in FILES if module.split(".")[1] in LIBRARIES]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert modules
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not {module for module in FILES if module.rpartition(".")[2] in {"utils", "helpers", "common", "misc"}}
