"""The grid of a study: variants of a configuration, seeds, folds, and a search before them.

name = "objective"                     # of the study; default: the file's name
base = "../flickr8k.toml"              # what variants change: a path from the grid's folder, or a name
seeds = [0, 1, 2, 3, 4]
split = "dev"                          # reported; default: as `eval`. With folds: the held-out fold
folds = 5                              # cross-validation by source video; default: none
metric = "t2v/R@1"                     # of the tests between variants

[overrides]                            # of every variant
optim.epochs = 2

[variants.none]                        # the first variant is what the others are compared with
support.captioning = "none"
[variants.none.search]                 # its own values, where those of [search] have no effect
optim.learning_rate = [1e-4, 2e-4, 4e-4]
[variants.cross]

[search]                               # the same number of trials for each variant, judged on validation
trials = 3
draw = "balanced"                      # the first values listed are tried equally often, in one order for all variants
[search.values]
optim.learning_rate = [1e-4, 2e-4, 4e-4]
loss.caption_weight = [0.03, 0.1, 0.3, 1.0]
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from supportset.store.errors import UsageError
from supportset.train.config import (
    Config,
    Section,
    flat,
    merged,
    parse_config,
    read_toml,
    read_tree,
    validated,
    without_effect,
)
from supportset.train.known_configs import GRIDS, find_config

Metric = Literal["t2v/R@1", "t2v/R@5", "t2v/R@10", "v2t/R@1", "v2t/R@5", "v2t/R@10", "rsum"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SearchSection(Section):
    """Hyper-parameter search with equal effort for each variant."""

    trials: int = Field(ge=1, description="Trials of each variant.")
    seed: int = Field(
        1000, ge=0, description="Seed of the trials' training and of the draw; not one of the study's seeds."
    )
    folds: Literal["each", "first"] = Field(
        "each", description="Search for each fold, or use the values of the first fold for all."
    )
    values: dict[str, Any] = Field(
        {},
        description="`section.key = [value, ...]`; trials are different combinations of them. A variant can have its "
        "own, in `[variants.NAME.search]`.",
    )
    draw: Literal["random", "balanced"] = Field(
        "random",
        description="`balanced`: values of the first key listed are tried equally often, and in one order for all "
        "variants that list the same ones, so that no variant wins by the learning rates it was given.",
    )
    overrides: dict[str, Any] = Field({}, description="Configuration keys of the trials alone, such as fewer epochs.")


class GridFile(Section):
    """A grid as it is written."""

    name: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]*$", description="Name of the study. Default: the file's name without its suffix."
    )
    base: str = Field(description="The configuration that variants change, relative to the grid's folder.")
    seeds: list[int] = Field(min_length=1, description="One run of each variant for each seed.")
    split: str = Field("", description="Split to report. Default: that of `eval`; with folds the fold held out.")
    folds: int | None = Field(None, ge=2, description="Cross-validation by source video. Unset: none.")
    metric: Metric = Field("t2v/R@1", description="What the tests between variants compare.")
    note: str = Field("", description="Printed over the tables.")
    overrides: dict[str, Any] = Field({}, description="Configuration keys of every variant.")
    variants: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="Configuration keys of each variant, by its name. The others are compared with the first.",
    )
    search: SearchSection | None = Field(
        None, description="Hyper-parameter search with equal effort for each variant. Unset: none."
    )


@dataclass(frozen=True)
class Variant:
    """One variant: a row of the table.

    Attributes
    ----------
    name : str
        Of the variant.
    tree : dict
        Its configuration, not validated: base, overrides and what makes the variant.
    changes : dict
        What makes the variant, key by key.
    candidates : tuple
        The combinations of values that its trials try; empty without a search.
    """

    name: str
    tree: dict[str, Any]
    changes: dict[str, Any]
    candidates: tuple[dict[str, Any], ...]

    def config(self, seed: int, values: Mapping[str, Any] | None = None) -> Config:
        """The configuration of one run of it; ``values`` are those that a search chose."""
        tree = merged(self.tree, nested({"name": self.name, "seed": seed, **(values or {})}))
        return parse_config(tree, f"variant {self.name!r}")


@dataclass(frozen=True)
class Grid:
    """A study: `load_grid` reads one.

    Attributes
    ----------
    name, seeds, split, folds, metric, note
        As in the file; an empty split is that of ``eval``.
    variants : tuple of Variant
        In the order of the file; the first is the reference.
    search : SearchSection or None
        None where nothing is searched.
    """

    name: str
    seeds: tuple[int, ...]
    split: str
    folds: int | None
    metric: Metric
    note: str
    variants: tuple[Variant, ...]
    search: SearchSection | None

    @property
    def fold_numbers(self) -> tuple[int | None, ...]:
        """Numbers of the folds; one None without."""
        return tuple(range(self.folds)) if self.folds else (None,)

    @property
    def search_folds(self) -> tuple[int | None, ...]:
        """Folds that values are searched for."""
        assert self.search is not None
        return self.fold_numbers if self.search.folds == "each" else self.fold_numbers[:1]


def load_grid(path: str | Path) -> Grid:
    """Read a grid and check every configuration in it.

    Raises
    ------
    UsageError
        Absent or malformed file, unknown key, a variant or a combination of values that is no configuration, fewer
        combinations than trials, searched keys that change nothing for a variant.
    """
    path = find_config(path, GRIDS)
    file = validated(GridFile, read_toml(path), str(path))
    if len(set(file.seeds)) < len(file.seeds):
        raise UsageError(f"{path}: seeds = {file.seeds}: a seed is listed twice")
    base = read_tree(find_config(file.base, GRIDS, beside=path.parent))
    variants = []
    for name, tree in file.variants.items():
        if not _NAME.fullmatch(name):
            raise UsageError(f"{path}: variant {name!r}: letters, digits, '.', '_' and '-' only, it names files")
        tree = dict(tree)
        own = tree.pop("search", None)
        if own is not None and file.search is None:
            raise UsageError(f"{path}: variant {name!r} has values to search, but there is no [search] with its trials")
        variant = Variant(name, merged(merged(base, file.overrides), tree), flat(tree), ())
        try:
            first = variant.config(file.seeds[0])
            for seed in file.seeds[1:]:
                variant.config(seed)
            if file.search is not None:
                values = file.search.values if own is None else own
                variant = replace(variant, candidates=_candidates(variant, file.search, values, first))
            if file.folds and first.data.validation_split:
                raise UsageError(
                    f"data.validation_split = {first.data.validation_split!r} does not go with folds, which hold out "
                    "their validation clips themselves: set it to ''"
                )
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        variants.append(variant)
    name = file.name or path.stem
    return Grid(name, tuple(file.seeds), file.split, file.folds, file.metric, file.note, tuple(variants), file.search)


def _candidates(variant: Variant, search: SearchSection, values: Any, config: Config) -> tuple[dict[str, Any], ...]:
    """Different combinations of the values, as many as there are trials, drawn at random."""
    lists = flat(values) if isinstance(values, dict) else {}
    if not lists or not all(isinstance(each, list) and each for each in lists.values()):
        raise UsageError(f"variant {variant.name!r}: what is searched must be section.key = [value, value, ...]")
    if config.optim.select_by == "last":
        raise UsageError(f"variant {variant.name!r}: optim.select_by = 'last' gives no score to judge trials by")
    if idle := [key for key in lists if key in without_effect(config)]:
        raise UsageError(
            f"variant {variant.name!r}: {', '.join(idle)} changes nothing there, so its trials would be fewer than "
            f"they look; list its own values in [variants.{variant.name}.search]"
        )
    count = math.prod(len(each) for each in lists.values())
    if count < search.trials:
        raise UsageError(
            f"variant {variant.name!r}: {count} combinations of values for search.trials = {search.trials}; every "
            "variant gets the same number of trials: list more values, or ask for fewer trials"
        )
    draw = _balanced if search.draw == "balanced" else _random
    found = []
    for number in draw([len(each) for each in lists.values()], search.trials, search.seed):
        chosen = {}
        for key, each in lists.items():
            number, place = divmod(number, len(each))
            chosen[key] = each[place]
        trial = chosen | flat(search.overrides)
        trial_config = variant.config(search.seed, trial)
        if not trial_config.data.validation_split and trial_config.data.holdout == 0:
            raise UsageError(f"variant {variant.name!r}: a search needs validation clips: set data.holdout above 0")
        found.append(chosen)
    return tuple(found)


def _random(sizes: list[int], trials: int, seed: int) -> list[int]:
    """Different combinations as numbers; the place in the first list is the number modulo its size, and so on."""
    count = math.prod(sizes)
    return sorted(np.random.default_rng([seed, count]).permutation(count)[:trials].tolist())


def _balanced(sizes: list[int], trials: int, seed: int) -> list[int]:
    """The same, with each place of the first list equally often (to within one).

    The places of the first list depend only on its size, the number of trials and the seed.
    """
    first, others = sizes[0], math.prod(sizes[1:])
    random = np.random.default_rng([seed, first])
    places = [int(place) for _ in range(-(-trials // first)) for place in random.permutation(first)][:trials]
    order = np.random.default_rng([seed, first, others]).permutation(others).tolist()
    numbers: list[int] = []
    for trial, place in enumerate(places):
        # With more trials than combinations of the others, the next one that this place has not had yet.
        waiting = (place + first * order[(trial + step) % others] for step in range(others))
        numbers.append(next(number for number in waiting if number not in numbers))
    return numbers


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of ``section.key`` -> value."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return tree
