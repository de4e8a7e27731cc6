"""Read from a feature set's card and indexes how to compute its features again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.recipe import GIVEN, fit_sampling, make_recipe
from supportset.extract.recheck.tolerance import FORWARD
from supportset.store.errors import UsageError
from supportset.store.files import open_folder
from supportset.store.format.card import Recipe
from supportset.store.format.index import read_index
from supportset.store.read.feature_set import FeatureSet

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone

_IDENTITY = ("weights_hash", "transform", "sampling", "layer", "pooling", "dim", "dtype")


def load_recorded_backbone(feature_set: FeatureSet, name: str | None = None) -> Backbone:
    """Load the backbone that a feature set's card (or ``name``) names, and check that it is the same.

    Raises
    ------
    UsageError
        The features were not made by a backbone from videos; it cannot be loaded; or it is not the same one.
    """
    from supportset.extract.backbones import load_backbone

    card, where = feature_set.card, feature_set.path
    if card.recipe.kind != "video":
        raise UsageError(f"{where}: holds features of kind {card.recipe.kind!r}: only those of videos are compared")
    if card.recipe.weights_hash == "unknown":
        raise UsageError(f"{where}: holds imported features, no backbone is known to compute them again")
    wanted = name or str(card.provenance.get(GIVEN) or card.recipe.backbone)
    try:
        backbone = load_backbone(wanted)
    except UsageError as error:
        hint = "" if name else "; if its weights have another path on this machine: --backbone NAME@PATH"
        raise UsageError(f"{where}: its backbone cannot be loaded: {error}{hint}") from error
    check_backbone(card.recipe, backbone, where)
    return backbone


def check_backbone(recipe: Recipe, backbone: Backbone, where: object) -> None:
    """Refuse a backbone that computes other features than a recipe says.

    Raises
    ------
    UsageError
        One line that says what is different.
    """
    sampling = fit_sampling(recorded_sampling(recipe), backbone)
    made = make_recipe(backbone, sampling, recipe.dtype)
    if made.weights_hash != recipe.weights_hash:
        raise UsageError(
            f"{where}: was made with weights that hash to {recipe.weights_hash}, those of {backbone.given} hash to "
            f"{made.weights_hash}: name the right ones, --backbone NAME@PATH"
        )
    if different := [name for name in made.differences(recipe) if name in _IDENTITY]:
        raise UsageError(
            f"{where}: {backbone.given} computes other features now (differs in {', '.join(different)}): use the "
            "versions that the card names, or extract the set anew"
        )


def recorded_sampling(recipe: Recipe) -> Sampling:
    """Return the sampling of a recipe.

    Raises
    ------
    UsageError
        This version does not know it.
    """
    try:
        return Sampling(**recipe.sampling)
    except TypeError as error:
        raise UsageError(f"the sampling {recipe.sampling} of the card is not known to this version") from error


class Made(NamedTuple):
    """Conditions under which a shard's features were computed.

    Attributes
    ----------
    precision : str
        The precision of all its writers; ``fp32`` if they differ.
    loosest : str
        The least exact precision of its writers.
    devices : tuple[str, ...]
        Kinds of device, as in the cards.
    """

    precision: str
    loosest: str
    devices: tuple[str, ...]


class Makers:
    """Records of a set's writers: several machines may write a set, several runs a shard."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self._folder = open_folder(feature_set.path).child("shards")
        self._read: dict[str, Made] = {}

    def of(self, shard: str) -> Made:
        """Return the conditions of one shard; what is not recorded was the default."""
        if shard not in self._read:
            told = read_index(self._folder, shard, ["clip_id"])[0].provenance
            runs = told.get("merged", [told])
            precisions = {str(run.get("precision", "fp32")) for run in runs}
            loosest = max(precisions, key=lambda precision: FORWARD.get(precision, 1.0))
            devices = tuple(sorted({str(run.get("device", "cpu")) for run in runs}))
            self._read[shard] = Made(loosest if len(precisions) == 1 else "fp32", loosest, devices)
        return self._read[shard]
