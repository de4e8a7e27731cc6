"""Registries of frozen encoders: families, presets and plugins, and how a name is read.

A name is ``FAMILY:MODEL``, or ``FAMILY:MODEL@PATH`` with the weights read from PATH; ``FAMILY:MODEL#tokens`` asks a
visual encoder for its patch tokens. A family is a module of one of our folders, or an entry point of another package.
Its ``ABOUT`` is read from the source text, so that torch is imported only when an encoder is loaded.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supportset.store.errors import UsageError
from supportset.store.plugins import load_plugin, nearest, plugins, source

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone

DEFAULT_BACKBONE = "open_clip:ViT-B-32/laion2b_s34b_b79k"
_TOKENS = re.compile(r"#tokens(?:=([1-9]\d*))?$")


@dataclass(frozen=True)
class Family:
    """What a family says of itself in ``ABOUT``, a dict of literals at the top of its module.

    Attributes
    ----------
    pattern : str
        How its models are named, as ``"timm:NAME"``.
    what : str
        Which output is the feature.
    needs : str
        Where the weights are from.
    presets : dict of str to str
        Short names for models of the family.
    """

    pattern: str
    what: str
    needs: str
    presets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EncoderName:
    """The parts of ``family:model#tokens=N@path``, presets resolved.

    ``tokens`` is None where one vector a step is wanted, 0 for all patch tokens, else their number in a frame.
    """

    family: str
    model: str
    path: Path | None
    tokens: int | None = None


@dataclass(frozen=True)
class Registry:
    """All encoders of one kind.

    Attributes
    ----------
    kind : str
        What messages call one.
    group : str
        The group of entry points.
    package : str
        Our package that holds one module a family, each with ``load`` and ``ABOUT``.
    example : str
        A name, for messages.
    bare : str
        The family of a name without a family; empty where a name must have one.
    tokens : bool
        Whether a name may ask for tokens.
    """

    kind: str
    group: str
    package: str
    example: str
    bare: str = ""
    tokens: bool = False

    def plugins(self) -> dict[str, EntryPoint]:
        """List the families, ours first."""
        return plugins(self.group, self.package, "load")

    def families(self) -> dict[str, Family]:
        """Describe each family without importing it."""
        return {name: _about(plugin) for name, plugin in self.plugins().items()}

    def presets(self) -> dict[str, str]:
        """Map the short names to full ones."""
        return {
            preset: f"{name}:{model}"
            for name, family in self.families().items()
            for preset, model in family.presets.items()
        }

    def parse(self, name: str) -> EncoderName:
        """Split a name into its parts.

        Raises
        ------
        UsageError
            If the family is unknown (the nearest names are listed) or the path does not exist.
        """
        base, at, given = name.partition("@")
        asked = _TOKENS.search(base) if self.tokens else None
        base = base[: asked.start()] if asked else base
        presets, known = self.presets(), self.plugins()
        base = presets.get(base.removeprefix(f"{self.bare}:"), base)
        family, colon, model = base.partition(":")
        if self.bare and (not colon or Path(base).expanduser().is_dir()):
            family, model = self.bare, base
        if family not in known:
            raise UsageError(
                f"{self.kind} {name!r} is unknown{nearest(family, [*known, *presets])}: "
                f"families are {', '.join(known)} (as in {self.example}), presets {', '.join(presets)}"
            )
        path = Path(given).expanduser() if at else None
        if path is not None and (not given or not path.exists()):
            raise UsageError(
                f"{self.kind} {name!r}: there is no file or folder {given!r}: give the path of its weights after the @"
            )
        return EncoderName(family, model, path, int(asked[1] or 0) if asked else None)

    def loader(self, family: str) -> Callable[..., Any]:
        """Import a family and return its ``load``."""
        load: Callable[..., Any] = load_plugin(self.plugins()[family])
        return load

    def describe(self) -> list[tuple[str, str, str]]:
        """List (name, what it is, where its weights are from): families first, then presets."""
        families = self.families()
        rows = [(family.pattern, family.what, family.needs) for family in families.values()]
        for preset, full in self.presets().items():
            needs = families[full.partition(":")[0]].needs
            rows.append((preset, f"short for {full}", f"the hub, or {preset}@PATH: {needs}"))
        return rows


BACKBONES = Registry(
    "backbone", "supportset.backbones", "supportset.extract.backbones.families", DEFAULT_BACKBONE, tokens=True
)


def load_backbone(name: str) -> Backbone:
    """Load a frozen backbone by name, on the CPU in float32.

    Parameters
    ----------
    name : str
        ``FAMILY:MODEL``, ``FAMILY:MODEL@PATH``, a preset, or ``PRESET@PATH``. ``#tokens`` or ``#tokens=N`` behind the
        model or preset asks for its patch tokens.

    Raises
    ------
    UsageError
        If the name is unknown, its weights cannot be found or read, or it has no tokens.
    """
    parsed = BACKBONES.parse(name)
    load, options = BACKBONES.loader(parsed.family), {}
    if parsed.tokens is not None:
        if "tokens" not in inspect.signature(load).parameters:
            raise UsageError(f"backbone {name}: {parsed.family} gives one vector a step: leave out #tokens")
        options = {"tokens": parsed.tokens}
    backbone: Backbone = load(parsed.model, parsed.path, **options)
    backbone.given = name
    return backbone


def _about(plugin: EntryPoint) -> Family:
    """Read ``ABOUT`` from a module's source; a plugin without one is described by its package."""
    try:
        spec = find_spec(plugin.module)
        text = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ABOUT":
                return Family(**ast.literal_eval(node.value))
    except (ImportError, OSError, ValueError, SyntaxError, TypeError):
        pass  # its loader says what is wrong with it
    return Family(f"{plugin.name}:MODEL", f"plugin {plugin.value}", f"see the package {source(plugin)}")
