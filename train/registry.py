"""The choices of a configuration that a file, or another package, can add to.

Each name is a module of one of our folders, or an entry point of an installed package. The configuration, the command
line, the model card, the support analysis and the studies all read these registries. Listing names imports no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from supportset.store.plugins import load_plugin, plugins


@dataclass(frozen=True)
class Registry:
    """The named alternatives of one configuration key.

    Attributes
    ----------
    key : str
        The configuration key, as ``"support.captioning"``.
    group : str
        The entry points by which other packages add to it.
    package : str
        Our package that holds one module a name.
    attribute : str
        What each module defines.
    """

    key: str
    group: str
    package: str
    attribute: str

    def names(self, *, ours: bool = False) -> list[str]:
        """List the known names; ``ours`` leaves out those of other packages."""
        return [name for name, point in _points(self).items() if not ours or point.module.startswith(self.package)]

    def check(self, name: str) -> str:
        """Return a known name; ValueError lists the known ones."""
        if name not in _points(self):
            _points.cache_clear()  # a package may have been installed since
            if name not in _points(self):
                raise ValueError(f"{self.key} = {name!r}: unknown; known: {', '.join(self.names())}")
        return name

    def load(self, name: str) -> Any:
        """Import what a name means.

        Raises
        ------
        ValueError
            If the name is unknown; the line lists the known ones.
        UsageError
            If the import fails.
        """
        return load_plugin(_points(self)[self.check(name)])


@cache
def _points(registry: Registry) -> dict[str, EntryPoint]:
    # Reading the entry points of all installed packages takes a tenth of a second: too long for each of many variants.
    return plugins(registry.group, registry.package, registry.attribute)


CAPTIONING = Registry("support.captioning", "supportset.captioning", "supportset.train.model.captioning", "CAPTIONING")
CONTRASTIVE = Registry("loss.contrastive", "supportset.losses", "supportset.train.model.contrastive", "LOSS")
AGGREGATION = Registry(
    "video.aggregation", "supportset.aggregations", "supportset.train.model.aggregation", "Aggregation"
)
