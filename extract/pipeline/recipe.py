"""The card of a feature set that a run writes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from supportset.extract.decode.decoders import PYAV, describe_decoder
from supportset.extract.decode.sampling import Sampling
from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard, Recipe

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone

GIVEN = "backbone"  # provenance: the backbone's name as the user gave it; the recipe has the one without folders
_LIBRARIES = ("torch", "torchvision", "av", "pillow", "numpy", "open_clip_torch", "timm", "transformers")


def fit_sampling(sampling: Sampling, backbone: Backbone) -> Sampling:
    """Set the backbone's window in the sampling.

    Raises
    ------
    UsageError
        If the sampling has another window already, or a stride where the backbone takes single frames.
    """
    if sampling.window not in (1, backbone.window):
        raise UsageError(
            f"{backbone.name} takes {backbone.window} frames a step, not {sampling.window}: leave the window out"
        )
    if (sampling.stride or 1) > 1 and backbone.window == 1:
        raise UsageError(f"{backbone.name} takes single frames: a stride of {sampling.stride} is for clip models only")
    return replace(sampling, window=backbone.window)


def make_recipe(backbone: Backbone, sampling: Sampling, dtype: str) -> Recipe:
    """Return everything that determines the features."""
    return Recipe(
        kind="video",
        backbone=backbone.name,
        weights=backbone.weights,
        weights_hash=backbone.weights_hash,
        transform=backbone.transform_json,
        sampling=sampling.to_json(),
        layer=backbone.layer,
        pooling=backbone.pooling,
        dim=backbone.dim,
        dtype=dtype,
    )


def make_card(recipe: Recipe, device: str, precision: str, given: str, decoder: str = PYAV) -> FeatureCard:
    """Add what does not determine the features: versions, device kind, precision and date; never the machine's name.

    ``given`` is the backbone as the user named it, paths included, so that `store verify` can load it again.
    """
    provenance: dict[str, Any] = {
        GIVEN: given,
        "libraries": library_versions(_LIBRARIES),
        "decoder": describe_decoder(decoder),
        "device": device,
        "precision": precision,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return FeatureCard(recipe, provenance)


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
