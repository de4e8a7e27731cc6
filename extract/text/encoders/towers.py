"""The text tower that belongs to the visual encoder of a feature set."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from supportset.extract.backbones.registry import BACKBONES, DEFAULT_BACKBONE
from supportset.extract.pipeline.recipe import GIVEN
from supportset.extract.text.encoders.registry import TEXT_ENCODERS, load_text_encoder
from supportset.store.errors import UsageError
from supportset.store.files import StorePath
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.read.catalog import locate_feature_set

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextEncoder, TextTower

UNKNOWN = "unknown"  # hash of the weights that made imported features


def load_tower(recipe: Recipe, given: str | None = None) -> TextTower:
    """Load the text tower that belongs to a feature set, on the CPU in float32.

    Both towers are read from one place, and the visual one is compared with the recipe: another model is refused.

    Parameters
    ----------
    recipe : Recipe
        Of a visual feature set.
    given : str, optional
        The encoder pair's name or path on this machine, as ``extract --backbone`` takes it (see :func:`load_tower_of`).
        Default: the name in the recipe. Imported features need it, and only its dimension can be compared with them.

    Raises
    ------
    UsageError
        The encoder has no text tower, cannot be found or read, or has other weights than made the features.
    """
    if recipe.kind != "video":
        raise UsageError(f"{recipe.folder} holds features of text: name features of clips")
    if given is None and recipe.backbone.startswith("imported:"):
        raise UsageError(
            f"the features {recipe.folder} were imported, so their text tower is not known: name the encoder pair "
            f"that made them with --encoder, as {DEFAULT_BACKBONE}"
        )
    name = given or recipe.backbone
    try:
        parsed = BACKBONES.parse(name)
        load = _loader(parsed.family)
        tower = load(parsed.model, parsed.path) if load else None
    except UsageError as error:
        raise UsageError(
            f"{error}; text for the features {recipe.folder} needs it: --encoder names its path on this machine"
        ) from None
    if tower is None:
        raise UsageError(
            f"the features {recipe.folder} were made with {name}, which has no text tower, so no text can be compared "
            f"with them: use features of an encoder pair, as {DEFAULT_BACKBONE}, or train a run on them"
        )
    if recipe.weights_hash != UNKNOWN and "embedding" not in recipe.layer:
        raise UsageError(
            f"the features {recipe.folder} hold the {recipe.layer} of {recipe.backbone}, which no text is compared "
            f"with: use features of an encoder pair, as {DEFAULT_BACKBONE}, or train a run on them"
        )
    tower.given = f"{parsed.family}:{parsed.model}" + (f"@{parsed.path}" if parsed.path else "")
    if recipe.weights_hash not in (UNKNOWN, tower.visual_hash):
        raise UsageError(
            f"encoder {name!r} is not the one that made the features {recipe.folder}: its visual weights are "
            f"{tower.visual_hash}, not {recipe.weights_hash}; name the one that did with --encoder"
        )
    if recipe.dim != tower.dim:
        raise UsageError(
            f"encoder {name!r}: its text embeddings have length {tower.dim}, features {recipe.folder} {recipe.dim}: "
            "they are of two models, or not in one space; name the encoder pair that made them with --encoder"
        )
    return tower


def load_tower_of(card: FeatureCard, given: str | None = None) -> TextTower:
    """Load the text tower of a feature set by ``given``, else by the name under which the encoder was loaded for it.

    Raises
    ------
    UsageError
        As :func:`load_tower`.
    """
    recorded = card.provenance.get(GIVEN)
    return load_tower(card.recipe, given or (recorded if isinstance(recorded, str) else None))


def load_named(
    name: str, store: str | StorePath, dataset: str, max_tokens: int | None = None, pooling: str | None = None
) -> TextEncoder:
    """Load a text encoder by name, or by ``tower:FEATURES`` the one that belongs to visual features of the dataset.

    Raises
    ------
    UsageError
        As :func:`load_tower` and :func:`supportset.extract.text.encoders.load_text_encoder`; no such features.
    """
    kind, colon, features = name.partition(":")
    if (kind, colon) != ("tower", ":"):
        return load_text_encoder(name, max_tokens, pooling)
    tower = load_tower_of(locate_feature_set(store, f"{dataset}/{features}", "video").card)
    tower.check_options(max_tokens, pooling)
    return tower


def _loader(family: str) -> Callable[[str, Path | None], TextTower | None] | None:
    """``load_tower`` of the text family of the same name; None where there is none."""
    plugin = TEXT_ENCODERS.plugins().get(family)
    load: Callable[[str, Path | None], TextTower | None] | None = getattr(
        import_module(plugin.module) if plugin else None, "load_tower", None
    )
    return load
