"""The card of imported features: their recipe is unknown, but for what the user states of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import xxhash

from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.format.registry import DEFAULT_FORMAT
from supportset.store.transfer.clip import Form
from supportset.store.transfer.sources import ClipArrays

UNKNOWN = "unknown"
OWN_FIELD = ("weights", "layer", "pooling")  # what a user may state that has a field of its own in a recipe
ELSEWHERE = {
    "fps": "use --fps, which also gives the steps their times",
    "dim": "use --dim",
    "dtype": "use --dtype",
    "kind": "use --kind",
    "name": "use --name",
}


@dataclass(frozen=True)
class ImportOptions:
    """What the user says of features to import.

    Attributes
    ----------
    name : what to call them, e.g. ``S3D``: the recipe's backbone becomes ``imported:S3D``
    kind : ``video`` or ``text`` (then ids are of captions)
    stated : what is known of the recipe, e.g. ``{"weights": "howto100m", "resize": "224"}``; part of its identity
    fps : steps a second, None where it is not known
    dim, dtype : of the features; None: as most of the first readable clips have it
    trim_zeros : cut rows of zeros at the end of a clip, left there by padding to a fixed length
    replace : take features that differ from those in the store under the same clip id, instead of refusing
    shard_format : ``zarr`` or ``hdf5``

    Raises
    ------
    UsageError
        A value that means nothing.
    """

    name: str
    kind: str = "video"
    stated: Mapping[str, str] = field(default_factory=dict)
    fps: float | None = None
    dim: int | None = None
    dtype: str | None = None
    trim_zeros: bool = False
    replace: bool = False
    shard_format: str = DEFAULT_FORMAT

    def __post_init__(self) -> None:
        if not re.search(r"[A-Za-z0-9]", self.name) or not self.name.isprintable():
            raise UsageError(f"--name {self.name!r}: say what made the features, such as S3D")
        for key, value in self.stated.items():
            if key in ELSEWHERE:
                raise UsageError(f"--state {key}={value}: {ELSEWHERE[key]}")
        if self.fps is not None and not 0 < self.fps < 1e6:
            raise UsageError(f"--fps {self.fps:g}: must be above 0, steps a second")


def make_card(options: ImportOptions, form: Form, source: ClipArrays, times: ClipArrays | None) -> FeatureCard:
    """The card of an import.

    The recipe, which names the feature set, is what the user stated, the width and the dtype: the same for a run that
    goes on with an import, whatever has been added to the source meanwhile. Name, size and listing of the source are
    provenance; the hash of each file is in its clips' rows.
    """
    stated = dict(options.stated)
    own = {name: stated.pop(name, UNKNOWN) for name in OWN_FIELD}
    sampling: dict[str, Any] = {"times": UNKNOWN}  # step i is then stored as i to i + 1 seconds
    if times is not None:
        sampling = {"times": "given"}
    elif options.fps is not None:
        sampling = {"times": "stated", "fps": options.fps}
    if options.trim_zeros:
        sampling["trim_zeros"] = True
    recipe = Recipe(
        kind=options.kind,
        backbone=f"imported:{options.name}",
        weights_hash=UNKNOWN,
        transform={"stated": stated or UNKNOWN},
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
    return {
        "name": source.path.resolve().name,
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
