"""Options, parameter types and printing that several verbs share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import click

from supportset.store.errors import UsageError, printable


def _refuse_file(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Refuse a store that is a file, or below one."""
    place = Path(value)
    for path in (place, *place.parents) if "://" not in value else ():
        if path.is_dir():
            break
        if path.exists():
            raise UsageError(f"--store {value}: {path} is a file, and a store is a folder: name a folder")
    return value


store_option: Callable[[Any], Any] = click.option(
    "--store",
    "store",
    default="features",
    show_default=True,
    callback=_refuse_file,
    help="Folder or URL of the feature store.",
)
json_option: Callable[[Any], Any] = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object on standard output, the rest on standard error.",
)
index_option: Callable[[Any], Any] = click.option(
    "--index",
    default="exact",
    show_default=True,
    metavar="NAME",
    help="Of the parts of clips: exact; usearch, approximate, for more than a million; lancedb:URL, a table in a "
    "folder or an object store.",
)
device_option: Callable[[Any], Any] = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."
)


def zero_shot_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of retrieval without training; `pairing_of` reads all but the first."""
    for option in (
        click.option("--temperature", type=float, help="Of the weights of steps.  [default: 0.1]"),
        click.option(
            "--pooling",
            type=click.Choice(["mean", "text-weighted"]),
            help="A clip is the mean of its steps, or each text weights the steps.  [default: mean]",
        ),
        click.option(
            "--template",
            "templates",
            metavar="TEXT",
            multiple=True,
            help="Text around the query, as 'a video of {}'; the embeddings of several are averaged.",
        ),
        click.option(
            "--zero-shot",
            metavar="DATASET/FEATURES",
            help="In place of RUN: compare these features with the text tower of the encoder that made them.",
        ),
    ):
        command = option(command)
    return command


def pairing_of(given: dict[str, Any]) -> dict[str, Any]:
    """Take what was given of `zero_shot_options` out of a command's arguments, for `open_zero_shot`."""
    options = {name: given.pop(name) for name in ("templates", "pooling", "temperature")}
    return {name: value for name, value in options.items() if value not in (None, ())}


def check_mode(run: str | None, zero_shot: str | None, of_run: dict[str, Any], pairing: dict[str, Any]) -> None:
    """Refuse a command without a RUN or --zero-shot, or with both, or with options of the other.

    Raises
    ------
    UsageError
        Names what to leave out or to add.
    """
    if not run and not zero_shot:
        raise UsageError("give a RUN folder, or features of an encoder pair with --zero-shot DATASET/FEATURES")
    if run and zero_shot:
        raise UsageError(f"both the run {run} and --zero-shot {zero_shot} are given: leave one out")
    if zero_shot:
        refuse_given(of_run, "a RUN")
    else:
        refuse_given(pairing, "--zero-shot")


def refuse_given(options: dict[str, Any], needs: str) -> None:
    """Refuse options, by parameter name, that only make sense with another one."""
    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(f"--{given[0].removesuffix('s')} needs {needs}: leave it out")


def print_json(value: Any) -> None:
    """Print a value as one JSON document on standard output.

    What a terminal obeys (control characters, direction marks) and half surrogate pairs, which are no UTF-8, become
    escapes: a program reads the same text.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(re.sub(r"[^\n -~]", lambda found: _escape(found[0]), text))


def _escape(char: str) -> str:
    return char if printable(char) == char else json.dumps(char)[1:-1]


class ShardFormatName(click.ParamType):
    """Name of a shard format: a built-in one, or a plugin's."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """All known names, as click shows a choice."""
        from supportset.store.format.registry import format_names

        return f"[{'|'.join(format_names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name, without an import of the format."""
        from supportset.store.format.registry import format_names

        if value not in (known := format_names()):
            self.fail(f"{value!r} is not one of {', '.join(known)}", param, ctx)
        return str(value)


class Share(click.ParamType):
    """A share, ``5%`` or ``0.05``, as a number from 0 to 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the share; fail with the accepted forms."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = -1.0
        if not 0.0 <= share <= 1.0:
            self.fail(f"{value!r} is not a share from 0% to 100% (write 5% or 0.05)", param, ctx)
        return share


class Size(click.ParamType):
    """A number of bytes, such as ``200GB``, ``500MB`` or ``2TB``."""

    name = "size"
    _UNITS: ClassVar = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the size; fail with the accepted forms."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]b)", str(value).strip().lower())
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is not a size: write it as 200GB, 500MB or 2TB", param, ctx)
        return round(float(found[1]) * self._UNITS[found[2]])


class Auto(click.ParamType):
    """An integer of at least 1, or ``auto``, which becomes None."""

    name = "n|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Read the number; fail with the accepted forms."""
        if value in ("auto", None):
            return None
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither an integer of at least 1 nor auto", param, ctx)
        return int(value)


class Part(click.ParamType):
    """``i/n``: the i-th of n equal parts of the work, counted from 1."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read ``i/n``; fail with the accepted form."""
        if isinstance(value, tuple):
            return value
        first, _, second = str(value).partition("/")
        if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
            self.fail(f"{value!r} is not of the form i/n: parts count from 1: of eight, 1/8 to 8/8", param, ctx)
        return int(first), int(second)


max_thumbnails_option = click.option(
    "--max-thumbnails",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    metavar="N",
    help="Most thumbnails of a clip, evenly spread over its steps.",
)
format_option = click.option(
    "--format", "shard_format", type=ShardFormatName(), default="zarr", show_default=True, help="Format of the shards."
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Precision of the stored features.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Precision of the encoder.",
)
