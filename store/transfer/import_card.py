"""Import card: the card of imported features, whose recipe is unknown except for what the user knows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import xxhash

from supportset.store.errors import UsageError
from supportset.store.files import hash_parts
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.registry import DEFAULT_FORMAT
from supportset.store.transfer.clip import Form
from supportset.store.transfer.sources import ClipArrays

UNKNOWN = "unknown"
IMPORTED = "imported:"  # the backbone of imported features begins so
OWN_FIELD = ("weights", "layer", "pooling")  # what a user may know that is a field of a recipe
ELSEWHERE = {
    "fps": "use --fps, which also gives the steps their times",
    "dim": "use --dim",
    "dtype": "use --dtype",
    "kind": "use --kind",
    "name": "use --name",
}


@dataclass(frozen=True)
class ImportOptions:
    """What the user knows about features to import.

    Attributes
    ----------
    name : str
        Name of the features, such as ``S3D``: the recipe's backbone becomes ``imported:S3D``.
    kind : str
        ``video`` or ``text`` (then ids are of captions).
    card_fields : mapping
        Known fields of the recipe, such as ``{"weights": "howto100m", "resize": "224"}``; a part of its identity.
    fps : float or None
        Steps a second, None if unknown.
    dim : int or None
    dtype : str or None
        Of the features; None: as in most of the first readable clips.
    trim_zeros : bool
        Remove rows of zeros at the end of a clip: padding to a fixed length.
    replace : bool
        Replace features in the store that differ, instead of an error.
    shard_format : str
        Name of a shard format.

    Raises
    ------
    UsageError
        A value is impossible.
    """

    name: str
    kind: str = "video"
    card_fields: Mapping[str, str] = field(default_factory=dict)
    fps: float | None = None
    dim: int | None = None
    dtype: str | None = None
    trim_zeros: bool = False
    replace: bool = False
    shard_format: str = DEFAULT_FORMAT

    def __post_init__(self) -> None:
        if not re.search(r"[A-Za-z0-9]", self.name) or not self.name.isprintable():
            raise UsageError(f"--name {self.name!r}: name the model of the features, such as S3D")
        for key, value in self.card_fields.items():
            if key in ELSEWHERE:
                raise UsageError(f"--state {key}={value}: {ELSEWHERE[key]}")
        if self.fps is not None and not 0 < self.fps < 1e6:
            raise UsageError(f"--fps {self.fps:g}: must be above 0, steps a second")


def make_card(options: ImportOptions, form: Form, source: ClipArrays, times: ClipArrays | None) -> FeatureCard:
    """Make the card of an import.

    The recipe, which identifies the feature set, has the fields that the user knows, the width and the dtype. So it is
    the same when an import resumes after additions to the source. Name, size and listing of the source are provenance;
    the hash of each file is in the rows of its clips.
    """
    known = dict(options.card_fields)
    own = {name: known.pop(name, UNKNOWN) for name in OWN_FIELD}
    sampling: dict[str, Any] = {"times": UNKNOWN}  # step i is then stored as i to i + 1 seconds
    if times is not None:
        sampling = {"times": "given"}
    elif options.fps is not None:
        sampling = {"times": "stated", "fps": options.fps}
    if options.trim_zeros:
        sampling["trim_zeros"] = True
    recipe = Recipe(
        kind=options.kind,
        backbone=f"{IMPORTED}{options.name}",
        weights_hash=UNKNOWN,
        transform={"stated": known or UNKNOWN},
        sampling=sampling,
        dim=form.dim,
        dtype=form.dtype,
        **own,
    )
    provenance: dict[str, Any] = {"origin": "imported, recipe unknown", "source": _describe(source)}
    if times is not None:
        provenance["times"] = _describe(times)
    return FeatureCard(
        recipe,
        {**provenance, "date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": _versions()},
    )


def _describe(source: ClipArrays) -> dict[str, Any]:
    listing = dict(source.listing())
    digest = xxhash.xxh3_128("\n".join(f"{size} {name}" for name, size in sorted(listing.items())).encode("utf-8"))
    others = {"linked_files": sorted(source.others)} if source.others else {}
    return {
        **others,
        "name": source.path.resolve().name,
        "place": hash_parts([os.fsencode(source.path.resolve())]),  # not the path itself, which is nobody's business
        "form": source.form,
        "clips": len(source.ids),
        "bytes": sum(listing.values()),
        "names_and_sizes": f"xxh3-128:{digest.hexdigest()}",
    }


def _versions() -> dict[str, str]:
    try:
        own = metadata.version("supportset")
    except metadata.PackageNotFoundError:  # run from its checkout
        own = UNKNOWN
    return {"supportset": own, "numpy": np.__version__}
