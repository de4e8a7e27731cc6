"""Plugins: shard formats, losses, readers and encoders, ours and those of other packages.

Each kind has a group of entry points, such as ``supportset.losses``. A group holds the modules of one of our folders,
found by their file names, and what installed packages register in their ``pyproject.toml``. Nothing is imported until
it is loaded.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from supportset.store.errors import UsageError


def plugins(group: str, package: str | None = None, attribute: str | None = None) -> dict[str, EntryPoint]:
    """List the plugins of a group without importing them.

    Parameters
    ----------
    group : str
        The group of entry points, as ``"supportset.losses"``.
    package : str, optional
        Full name of our package that holds one module a plugin. A module's name is the plugin's name; names that begin
        with ``_`` are left out.
    attribute : str, optional
        What each of our modules defines, as ``"load"``. Default: the module itself.

    Returns
    -------
    dict of str to EntryPoint
        By name: ours first, then those of other packages; each part sorted. Ours keep their names, and of two packages
        with one name the first on the import path is listed.
    """
    spec = find_spec(package) if package else None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    ours = sorted(module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_"))
    found = {
        name: EntryPoint(name, f"{package}.{name}" + (f":{attribute}" if attribute else ""), group) for name in ours
    }
    theirs: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        theirs.setdefault(point.name, point)
    return found | {name: theirs[name] for name in sorted(theirs) if name not in found}


def source(plugin: EntryPoint) -> str:
    """Return the name of the package that a plugin is from; of its module where no installed package registers it."""
    return plugin.dist.name if plugin.dist else plugin.module


def load_plugin(plugin: EntryPoint) -> Any:
    """Import what a plugin names.

    Raises
    ------
    UsageError
        If the import fails for any reason. The line names the plugin, its package and the failure.
    """
    try:
        return plugin.load()
    except Exception as error:  # a foreign module may raise anything while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"plugin {plugin.name!r} ({plugin.value}) of the group {plugin.group} cannot be loaded ({reason}): "
            f"install what it needs, or uninstall the package {source(plugin)}"
        ) from error


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest known names that are like ``word``: ``" (did you mean a, b?)"``, or an empty string."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(names), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(names[name] for name in close)}?)" if close else ""
