"""Writes docs/configuration.md from the configuration classes.

``python -m supportset.train.config_reference > docs/configuration.md``
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from supportset.train.ablation import grid
from supportset.train.config import RENAMED, Config, Section
from supportset.train.registry import AGGREGATION, CAPTIONING, CONTRASTIVE

_REGISTRIES = {registry.key: registry for registry in (AGGREGATION, CAPTIONING, CONTRASTIVE)}


def reference() -> str:
    """Return the page as Markdown."""
    assert grid.__doc__ is not None
    head, _, example = grid.__doc__.partition("\n\n")
    lines = [
        "# Configuration\n",
        "Generated from `train/config.py` by `python -m supportset.train.config_reference`; a test compares the two.\n",
        "A run is configured by one TOML file: `train CONFIG [KEY=VALUE]...`. `KEY=VALUE` replaces one value, such as "
        '`optim.epochs=5`. `base = "msrvtt.toml"` at its top takes the values of another configuration where the file '
        "gives none. Values marked (*) are our reading of the paper, not confirmed by its text. `configs/` has "
        "examples; `configs/paper-*.toml` state the paper's setting in full.\n",
        "Names in a list marked † can also come from other packages; see "
        "[what the registries accept](method.md#registries).\n",
        "## Top level\n",
        *_table(Config, ""),
    ]
    for name, field in Config.model_fields.items():
        if _is_section(field.annotation):
            lines += [f"## `[{name}]`\n", f"{_text(field.annotation)}\n", *_table(field.annotation, f"{name}.")]
    lines += ["## Old names\n", "They still load, with one line that tells the new name.\n"]
    lines += ["| old | new |", "| --- | --- |", *(f"| `{old}` | `{new}` |" for old, new in RENAMED.items()), ""]
    lines += ["## Grids of studies\n", f"`ablate GRID`. {head}\n", f"```toml\n{example.strip()}\n```\n"]
    lines += [*_table(grid.GridFile, ""), "### `[search]`\n", *_table(grid.SearchSection, "search.")]
    return "\n".join(lines).rstrip() + "\n"


def _table(section: Any, prefix: str) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in section.model_fields.items():
        if not _is_section(field.annotation):
            cells = (f"`{prefix}{name}`", _type(f"{prefix}{name}", field), _default(field), field.description or "")
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _text(section: Any) -> str:
    return " ".join((section.__doc__ or "").split())


def _type(key: str, field: FieldInfo) -> str:
    if key in _REGISTRIES:
        return ", ".join(f"`{name}`" for name in _REGISTRIES[key].names(ours=True)) + " †"
    names = ", ".join(dict.fromkeys(_names(field.annotation)))
    signs = {"ge": "≥", "gt": ">", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {getattr(each, kind)}"
        for each in field.metadata
        for kind, sign in signs.items()
        if hasattr(each, kind)
    ]
    return f"{names}, {', '.join(limits)}" if limits else names


def _names(annotation: Any) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from (f"`{value}`" for value in inner)
    elif origin is list:
        yield f"list of {', '.join(_names(inner[0]))}s"
    elif origin is dict or annotation is dict:
        yield "table"
    elif inner:
        yield from (name for each in inner if each is not NoneType for name in _names(each))
    elif _is_section(annotation):
        yield "table"
    else:
        yield {str: "string", int: "integer", float: "number", bool: "boolean"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "unset"
    return f"`{json.dumps(field.default).replace('{}', '')}`" if field.default != {} else "empty"


if __name__ == "__main__":
    print(reference(), end="")
