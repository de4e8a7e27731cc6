"""Feature cards: the exact recipe of a feature set, so that features of two recipes never mix."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import Folder, StorePath, hash_parts, open_folder

FORMAT = "supportset-features"
FORMAT_VERSION = 1
CARD = "card.json"
CONTENT = "content"  # key of the hash of the other keys
MAX_JSON_BYTES = 64 << 20  # of card.json and dataset.json
STORED_DTYPES = ("float16", "float32")
THUMBNAILS = "thumbnails"  # kind of a set of JPEGs, and name of its folder in that of its feature set


@dataclass(frozen=True, eq=False)
class Recipe:
    """Identity of a feature set: everything that determines the values.

    Two recipes are equal if their canonical JSON is: the order of keys, and ``1`` or ``1.0``, make no difference.

    Attributes
    ----------
    kind : str
        ``video`` or ``text``; ``thumbnails``: see :mod:`supportset.store.format.thumbnails`.
    backbone : str
        E.g. ``open_clip:ViT-B-32/laion2b_s34b_b79k``, ``imported:NAME``.
    weights : str
        The weights' name.
    weights_hash : str
        ``xxh3-128:<hex>`` over the parameters, ``unknown`` for imports.
    transform : dict
        Resize, crop, interpolation, mean, std, ... as JSON.
    sampling : dict
        ``{"fps": 1.0, "max_steps": 512}`` or ``{"frames": 8}``; clip models also ``window`` and ``stride``.
    layer : str
        Which output.
    pooling : str
        How it became one vector a step.
    dim : int
        D, numbers a step.
    dtype : str
        Stored dtype, ``float16`` or ``float32``; ``uint8`` of thumbnails.

    Raises
    ------
    UsageError
        A field has the wrong type, or an impossible value.
    """

    kind: str
    backbone: str
    weights: str
    weights_hash: str
    transform: dict[str, Any]
    sampling: dict[str, Any]
    layer: str
    pooling: str
    dim: int
    dtype: str

    def __post_init__(self) -> None:
        wanted: dict[str, type] = dict.fromkeys((f.name for f in fields(self)), str)
        wanted |= {"transform": dict, "sampling": dict, "dim": int}
        for name, kind in wanted.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise UsageError(f"recipe: {name} = {value!r} should be of type {kind.__name__}")
        if self.kind not in ("video", "text", THUMBNAILS):
            raise UsageError(f"recipe: kind = {self.kind!r} should be 'video', 'text' or '{THUMBNAILS}'")
        if self.dim < 1:
            raise UsageError(f"recipe: dim = {self.dim} should be at least 1")
        dtypes = ("uint8",) if self.kind == THUMBNAILS else STORED_DTYPES
        if self.dtype not in dtypes:
            raise UsageError(f"recipe: dtype = {self.dtype!r} should be one of {', '.join(dtypes)}")
        # Made canonical now: values that JSON does not have are refused here, and the recipe keeps no reference
        # to the caller's dicts.
        for name in ("transform", "sampling"):
            object.__setattr__(self, name, _canonical(getattr(self, name), name))

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII, whole numbers without a fraction."""
        return json.dumps(_canonical(asdict(self), "recipe"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical.encode("ascii")).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the feature set's folder: backbone, sampling, hash; of thumbnails always the same."""
        if self.kind == THUMBNAILS:
            return THUMBNAILS
        return "-".join([_slug(self.backbone), *self._sampling_words(), self.hash])

    def _sampling_words(self) -> list[str]:
        if self.kind == "text":
            return ["text"]
        words = []
        if self.sampling.get("fps") is not None:
            words.append(f"{self.sampling['fps']}fps")
        if self.sampling.get("frames") is not None:
            words.append(f"{self.sampling['frames']}frames")
        if (self.sampling.get("window") or 1) != 1:
            words.append(f"{self.sampling['window']}window")
        return [_slug(word) for word in words]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """Inverse of :meth:`to_json`; UsageError names missing and unknown keys."""
        known = {f.name for f in fields(cls)}
        if absent := sorted(known - set(data)):
            raise UsageError(f"recipe: lacks {', '.join(absent)}")
        if unknown := sorted(set(data) - known):
            raise UsageError(f"recipe: has unknown keys {', '.join(unknown)}")
        return cls(**data)

    def differences(self, other: Recipe) -> list[str]:
        """Return the names of the fields in which two recipes differ."""
        mine, theirs = (_canonical(asdict(recipe), "recipe") for recipe in (self, other))
        return [name for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class FeatureCard:
    """``card.json``: the recipe, which identifies the set, and the provenance, which does not.

    Attributes
    ----------
    recipe : Recipe
        The identity.
    provenance : dict
        Library and decoder versions, device, precision, date.
    """

    recipe: Recipe
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "recipe": self.recipe.to_json(),
            "hash": self.recipe.hash,
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, data: Any, source: object = CARD) -> FeatureCard:
        """Parse a card; ``source`` names it in errors.

        Raises
        ------
        SupportsetError
            Not a card, a newer format version, or a recipe that does not match the card's hash.
        """
        check_format(data, FORMAT, FORMAT_VERSION, source)
        try:
            recipe = Recipe.from_json(data["recipe"])
            provenance = data.get("provenance", {})
            stated = data["hash"]
        except (KeyError, TypeError, AttributeError) as error:
            raise SupportsetError(f"{source}: damaged card, {error} is missing: restore the file") from None
        except UsageError as error:
            raise SupportsetError(f"{source}: damaged card: {error}; restore the file") from None
        if stated != recipe.hash:
            raise SupportsetError(
                f"{source}: the recipe hashes to {recipe.hash}, the card says {stated}: "
                "it was edited by hand or damaged; restore the file"
            )
        return cls(recipe, provenance)

    @classmethod
    def load(cls, path: str | StorePath) -> FeatureCard:
        """Read the card of the feature set at ``path``."""
        return load_card(open_folder(path))

    def claim(self, folder: Folder) -> FeatureCard:
        """Write this card into a feature set's folder, or check that the existing card has the same recipe.

        Returns
        -------
        FeatureCard
            The card in the folder: that of the first writer, whose provenance may differ.

        Raises
        ------
        SupportsetError
            The folder has a card of another recipe.
        """
        if CARD not in folder.names():
            folder.put({CARD: [_card_file(self.to_json())]}, replace=False)
        there = load_card(folder)
        if there.recipe != self.recipe:
            fields_ = ", ".join(there.recipe.differences(self.recipe))
            raise SupportsetError(
                f"{folder}/{CARD}: holds features of another recipe (different: {fields_}): use another folder"
            )
        return there


def is_feature_set(path: str | StorePath) -> bool:
    """Tell whether a folder is that of a feature set: it has a card, possibly a damaged one."""
    return open_folder(path).size(CARD) is not None


def load_card(folder: Folder) -> FeatureCard:
    """Read the card in a folder; the error says whether it is missing, damaged or newer."""
    return FeatureCard.from_json(load_json(folder, CARD, "not a feature set"), f"{folder}/{CARD}")


def load_json(folder: Folder, name: str, otherwise: str) -> Any:
    """Read a JSON file; ``otherwise`` is what the error calls a folder without it."""
    if (folder.size(name) or 0) > MAX_JSON_BYTES:
        raise SupportsetError(f"{folder}/{name}: larger than {MAX_JSON_BYTES >> 20} MiB: restore the file")
    content = folder.read(name)
    if content is None:
        raise UsageError(f"{folder}: {otherwise}, it has no {name}: `store ls` lists what there is")
    try:
        return parse_json(content)
    except ValueError as error:
        raise SupportsetError(f"{folder}/{name}: not readable as JSON ({error}): restore the file") from None


def _card_file(data: dict[str, Any]) -> bytes:
    """The bytes of a card, with a hash of its other keys."""
    data = {key: value for key, value in data.items() if key != CONTENT}
    data[CONTENT] = hash_parts([json.dumps(data, sort_keys=True, allow_nan=False).encode("ascii")])
    return (json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def card_fault(folder: Folder) -> str:
    """Compare every byte of a card with its hash; an empty string if nothing is wrong, or if it has none."""
    content = folder.read(CARD) or b""
    data = parse_json(content)
    known = {"format", "format_version", "recipe", "hash", "provenance"}
    if (CONTENT in data or data.keys() - known) and _card_file(data) != content:
        return "its content differs from what was written"
    return ""


def parse_json(content: bytes | str) -> Any:
    """Parse JSON; ValueError for anything that is not, deep nesting included."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_format(data: Any, format_name: str, version: int, source: object) -> None:
    """Refuse JSON of another format, or of a newer version of this one."""
    if not isinstance(data, dict) or data.get("format") != format_name:
        raise SupportsetError(f"{source}: not a {format_name} file: restore it, or move it away")
    found = data.get("format_version")
    if not isinstance(found, int) or found < 1:
        raise SupportsetError(f"{source}: format_version {found!r} is not a version: restore the file")
    if found > version:
        raise SupportsetError(
            f"{source}: format version {found} is newer than this program reads (up to {version}): update supportset"
        )


def _canonical(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise UsageError(f"recipe: {where} has the key {odd[0]!r}, which is not a string")
        return {key: _canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        # 1.0 and 1 are the same number in JSON
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    raise UsageError(
        f"recipe: {where} = {value!r} cannot be written as JSON: use strings, finite numbers, lists and dicts"
    )


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-.")[-100:] or "unnamed"
