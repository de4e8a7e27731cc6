"""Import a package's public names when they are first used (PEP 562), so that ``import supportset`` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


def lazy(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package from its imports under ``if TYPE_CHECKING``.

    The package states its public names once, as plain absolute imports that editors and type checkers read. The first
    use of a name performs its import.
    """

    @cache
    def imports() -> dict[str, tuple[str, str]]:
        """Name -> (module, attribute), read from the package's source."""
        import ast
        import inspect

        source = inspect.getsource(sys.modules[package])
        blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
        block = next(each for each in blocks if ast.unparse(each.test) == "TYPE_CHECKING")
        return {
            alias.asname or alias.name: (node.module, alias.name)
            for node in block.body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    def first_use(name: str) -> Any:
        if name.startswith("__") or name not in imports():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = imports()[name]
        value = import_module(f"{package}.{name}") if module == package else getattr(import_module(module), attribute)
        setattr(sys.modules[package], name, value)
        return value

    return first_use, lambda: sorted(imports())
