"""Registry of shard formats.

A format is an instance of :class:`supportset.store.format.shard.ShardFormat` that is called ``FORMAT``. A built-in one
is a module of ``supportset.store.format.shards``; one of another package is an entry point of :data:`PLUGIN_GROUP`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.shard import ShardFormat
from supportset.store.plugins import load_plugin, nearest, plugins, source

PLUGIN_GROUP = "supportset.shard_formats"
DEFAULT_FORMAT = "zarr"


def format_names() -> list[str]:
    """List the names of all shard formats, the default one first, without importing them."""
    return sorted(_formats(), key=lambda name: (name != DEFAULT_FORMAT, name))


@cache
def shard_format(name: str) -> ShardFormat:
    """Look up a shard format by its name.

    Raises
    ------
    UsageError
        The format is unknown, or its plugin cannot be loaded.
    """
    if (plugin := _formats().get(name)) is None:
        known = format_names()
        raise UsageError(
            f"shard format {name!r} is unknown{nearest(name, known)}: use one of {', '.join(known)}, "
            "or install its plugin"
        )
    found = load_plugin(plugin)
    if not isinstance(found, ShardFormat) or found.name != name:
        raise UsageError(
            f"shard format {name!r}: {plugin.value} is not a ShardFormat of this name: update {source(plugin)}"
        )
    return found


def shard_suffixes() -> set[str]:
    """Return the suffixes of the shards of all formats that can be loaded, such as ``.zarr``."""
    found = set()
    for name in format_names():
        try:
            found.add(shard_format(name).suffix)
        except SupportsetError:  # a broken plugin: its shards count as foreign files, which are never removed
            continue
    return found


def _formats() -> dict[str, EntryPoint]:
    return plugins(PLUGIN_GROUP, "supportset.store.format.shards", "FORMAT")
