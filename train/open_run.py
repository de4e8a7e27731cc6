"""A trained run beside the store that it is applied to: paths and names are checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supportset.evaluate.splits import Split, read_split
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Dataset, open_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.train.config import Config
from supportset.train.data.feature_sets import open_recorded_features, open_recorded_text
from supportset.train.data.source import HOLDOUT
from supportset.train.run_folder import RunFolder

if TYPE_CHECKING:
    from supportset.train.data.cached_text import CachedText
    from supportset.train.model.model import SupportSetModel


@dataclass(frozen=True)
class RunOnStore:
    """A trained run and a dataset with features of its recipes. `open_run_on_store` makes one.

    Attributes
    ----------
    folder : RunFolder
        The run.
    config : Config
        As it was trained with.
    record : dict
        ``data.json``: the features, clips and captions it was trained on.
    store : str or Path
        The feature store.
    dataset : Dataset
        The tables.
    features : AlignedFeatures
        Compared with their checksums when they are read.
    """

    folder: RunFolder
    config: Config
    record: dict[str, Any]
    store: str | Path
    dataset: Dataset
    features: AlignedFeatures

    @property
    def own_dataset(self) -> bool:
        """Whether it is the dataset that the run was trained on."""
        return self.dataset.name == self.config.data.dataset

    @cached_property
    def text(self) -> CachedText | None:
        """Text features of the run's recipe; None where the run reads tokens.

        Raises
        ------
        UsageError
            The store has none of that recipe.
        """
        return open_recorded_text(self.record, self.store, self.dataset.name)

    def read_split(self, protocol: str, split: str) -> Split:
        """Read a split of a protocol, or the part that the run held out.

        Raises
        ------
        UsageError
            What `supportset.evaluate.splits.read_split` raises; for ``holdout``: nothing was held out of this protocol,
            or its clips are no longer there.
        """
        available = set(self.features.clip_ids)
        if split != HOLDOUT:
            return read_split(self.dataset, protocol, split, available)
        held, named, name = set(self.record["holdout"]), self.config.data.train_split, self.dataset.name
        if not held or not self.own_dataset or protocol != self.config.data.protocol:
            raise UsageError(
                f"the run held out no clips of protocol {protocol!r} of {name!r}; name a split of the protocol"
            )
        part = read_split(self.dataset, protocol, named, available).of_clips(HOLDOUT, held)
        if gone := held.difference(part.clip_ids):
            raise UsageError(
                f"{len(gone)} of the {len(held)} clips that the run held out are no longer in split {named!r} of "
                f"{name!r} (as {min(gone)!r}); give the store that the run was trained on"
            )
        if not part.present:
            raise UsageError(
                f"{name}: none of the {len(held)} clips that the run held out has features in this store; run extract "
                "for them"
            )
        return part

    def load_model(self, device: str = "auto", *, decoder: bool = True) -> SupportSetModel:
        """Load the model onto a device; without the caption decoder if only embeddings are wanted."""
        from supportset.train.device import choose_device
        from supportset.train.model.model import SupportSetModel

        folder = self.folder.model_folder()
        return SupportSetModel.from_pretrained(folder, device=str(choose_device(device)), decoder=decoder)


def first_split(record: Mapping[str, Any]) -> str | None:
    """The split to score a run on first, by its ``data.json``: None for the default of ``eval``, such as ``test``."""
    scored = [*record["leakage"]]
    return None if "test" in scored or not scored else scored[0]


def split_in_tables(run: RunFolder, split: str | None) -> tuple[str | None, tuple[str, frozenset[str]] | None]:
    """What a retriever that knows no run reads for a run's split: a split of the tables, and which clips of it."""
    if split != HOLDOUT:
        return split, None
    return run.load_config().data.train_split, (HOLDOUT, frozenset(run.data_record()["holdout"]))


def open_run_on_store(run: str | Path, store: str | Path = "features", dataset: str | None = None) -> RunOnStore:
    """Open a run and the features that it is applied to.

    Parameters
    ----------
    run : str or Path
        Run folder.
    store : str or Path
        Folder of the feature store.
    dataset : str, optional
        By default the run's. Another one must have features of the run's recipes.

    Raises
    ------
    UsageError
        No run, no model in it yet, an unknown dataset, a store without the run's features.
    """
    folder = RunFolder(run)
    config, record = folder.load_config(), folder.data_record()
    folder.model_folder()
    tables = open_dataset(store, dataset or config.data.dataset)
    features = open_recorded_features(record, store, tables.name, tables.gone)
    return RunOnStore(folder, config, record, store, tables, features)
