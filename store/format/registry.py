"""Registry of shard formats.

A format is an instance of :class:`supportset.store.format.shard.ShardFormat` that is called ``FORMAT``. A built-in one
is the module ``<name>_shard`` of this package. One of another package is an entry point of the group
:data:`PLUGIN_GROUP`, whose name is the format's.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.shard import ShardFormat

PLUGIN_GROUP = "supportset.shard_formats"
DEFAULT_FORMAT = "zarr"

_MODULE_END = "_shard"


def format_names() -> list[str]:
    """List the names of all shard formats, the default one first. No format's library is imported.

    Returns
    -------
    list of str
    """
    return sorted(_entries(), key=lambda name: (name != DEFAULT_FORMAT, name))


@cache
def shard_format(name: str) -> ShardFormat:
    """Look up a shard format by its name.

    Raises
    ------
    UsageError
        The format is unknown, or its plugin cannot be imported.
    """
    try:
        entry = _entries()[name]
    except KeyError:
        known = ", ".join(format_names())
        raise UsageError(f"shard format {name!r} is unknown: use one of {known}, or install its plugin") from None
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"shard format {name!r}: its plugin {entry.value} cannot be imported ({error}): "
            "install what it needs, or uninstall it"
        ) from None
    if not isinstance(loaded, ShardFormat) or loaded.name != name:
        raise UsageError(f"shard format {name!r}: {entry.value} is not a ShardFormat of this name: update the plugin")
    return loaded


def shard_suffixes() -> set[str]:
    """Suffixes of the shards of all formats that can be loaded here.

    Returns
    -------
    set of str
        Such as ``.zarr``.
    """
    found = set()
    for name in format_names():
        try:
            found.add(shard_format(name).suffix)
        except SupportsetError:  # a broken plugin: its shards count as foreign files, which nothing removes
            continue
    return found


def _entries() -> dict[str, EntryPoint]:
    """Entry points by format name; a plugin does not replace a built-in format."""
    modules = [path.stem for path in Path(__file__).parent.glob(f"*{_MODULE_END}.py")]
    built_in = {
        module.removesuffix(_MODULE_END): EntryPoint(
            module.removesuffix(_MODULE_END), f"{__package__}.{module}:FORMAT", PLUGIN_GROUP
        )
        for module in modules
    }
    return {plugin.name: plugin for plugin in entry_points(group=PLUGIN_GROUP)} | built_in
