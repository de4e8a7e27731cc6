"""Splits: their clips and captions, the hold-out by source video, and leakage between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption, Dataset


@dataclass(frozen=True)
class Split:
    """Clips and captions of a split.

    Attributes
    ----------
    name : str
        Name of the split, or ``holdout``.
    clip_ids : tuple of str
        All clips, in table order, missing ones included.
    captions : tuple of Caption
        All captions of these clips.
    missing : frozenset of str
        Clips without usable features.
    """

    name: str
    clip_ids: tuple[str, ...]
    captions: tuple[Caption, ...]
    missing: frozenset[str]

    @property
    def present(self) -> list[str]:
        """Clips with features, in table order."""
        return [clip_id for clip_id in self.clip_ids if clip_id not in self.missing]

    def only_present(self) -> Split:
        """Leave out missing clips and their captions."""
        captions = tuple(caption for caption in self.captions if caption.clip_id not in self.missing)
        return Split(self.name, tuple(self.present), captions, frozenset())

    def as_paragraphs(self) -> Split:
        """Join the captions of each clip by spaces, in their order: one caption a clip."""
        texts: dict[str, list[str]] = {}
        for caption in self.captions:
            texts.setdefault(caption.clip_id, []).append(caption.text)
        joined = (Caption(f"{clip_id}#paragraph", clip_id, " ".join(each)) for clip_id, each in texts.items())
        return Split(self.name, self.clip_ids, tuple(joined), self.missing)

    def of_clips(self, name: str, clip_ids: Collection[str]) -> Split:
        """Select the clips in ``clip_ids`` and their captions, under another name."""
        return Split(
            name,
            tuple(clip_id for clip_id in self.clip_ids if clip_id in clip_ids),
            tuple(caption for caption in self.captions if caption.clip_id in clip_ids),
            frozenset(self.missing & set(clip_ids)),
        )


def read_split(dataset: Dataset, protocol: str, split: str, available: Collection[str]) -> Split:
    """Read a split from the dataset's tables.

    Raises
    ------
    UsageError
        Unknown protocol or split, a split without clips, or one none of whose clips has features.
    """
    every = read_captions(dataset, protocol, split)
    if not every.clip_ids:
        raise UsageError(
            f"{dataset.name}: split {split!r} of protocol {protocol!r} is empty; its list file was absent when the "
            "dataset was extracted: add the file and run extract again"
        )
    missing = frozenset(every.clip_ids) - frozenset(available)
    if len(missing) == len(every.clip_ids):
        raise UsageError(
            f"{dataset.name}: none of the {len(every.clip_ids)} clips of split {split!r} of protocol {protocol!r} has "
            "features in this feature set; run extract for them"
        )
    return Split(split, every.clip_ids, every.captions, missing)


def read_captions(dataset: Dataset, protocol: str, split: str) -> Split:
    """Read a split from the tables, with or without features."""
    clip_ids = tuple(dataset.split_clips(protocol, split))
    return Split(split, clip_ids, tuple(dataset.split_captions(protocol, split)), frozenset())


def has_default_split(dataset: Dataset, protocol: str, train_split: str) -> bool:
    """Whether `default_split` finds one."""
    try:
        return bool(default_split(dataset, protocol, train_split))
    except UsageError:
        return False


def only_protocol(dataset: Dataset) -> str:
    """The protocol of a dataset that has one.

    Raises
    ------
    UsageError
        It has several, or none.
    """
    protocols = dataset.protocols()
    if len(protocols) == 1:
        return protocols[0]
    mend = f"give --protocol with one of {', '.join(protocols)}" if protocols else "extract it with captions"
    raise UsageError(f"dataset {dataset.name!r} has {'several protocols' if protocols else 'no protocol'}: {mend}")


def default_split(dataset: Dataset, protocol: str, train_split: str) -> str:
    """``test`` where the protocol has it, else its only split besides the training split.

    Raises
    ------
    UsageError
        An unknown protocol, or several splits to choose from.
    """
    names = dataset.split_names(protocol)
    others = [name for name in names if name != train_split]
    if "test" in others:
        return "test"
    if len(others) == 1:
        return others[0]
    raise UsageError(
        f"protocol {protocol!r} has no split 'test': give --split with one of {', '.join(names)}, or 'holdout' for the "
        "part that the run held out"
    )


def hold_out(split: Split, sources: Mapping[str, str], share: float, seed: int) -> tuple[Split, Split]:
    """Hold out about a share of a split's clips for validation, by source video.

    Parameters
    ----------
    split : Split
        What to cut.
    sources : mapping
        Source video of each clip.
    share : float
        Of the clips; never exceeded, except that at least one source is held out.
    seed : int
        The same seed holds out the same clips.

    Returns
    -------
    rest, held_out : Split
        No source has clips in both.

    Raises
    ------
    UsageError
        All clips come from one source.
    """
    groups: dict[str, list[str]] = {}
    for clip_id in split.clip_ids:
        groups.setdefault(sources[clip_id], []).append(clip_id)
    if len(groups) < 2:
        raise UsageError(
            f"all {len(split.clip_ids)} clips of split {split.name!r} come from one source video, so none can be held "
            "out for validation; name a data.validation_split, or set data.holdout=0 optim.select_by=last"
        )
    names = sorted(groups)
    shuffled = [names[i] for i in np.random.default_rng([seed, len(names)]).permutation(len(names))]
    target = share * len(split.clip_ids)
    held: set[str] = set()
    for name in shuffled:
        if len(held) + len(groups[name]) <= target:
            held.update(groups[name])
    if not held:
        held.update(groups[min(shuffled, key=lambda name: len(groups[name]))])
    rest = set(split.clip_ids) - held
    return split.of_clips(split.name, rest), split.of_clips("holdout", held)


def source_videos(dataset: Dataset) -> dict[str, str]:
    """Source video of each clip; by default the clip itself."""
    columns = dataset.clips.select(["clip_id", "source"]).to_pydict()
    return {
        clip_id: clip_id if source is None else source
        for clip_id, source in zip(columns["clip_id"], columns["source"], strict=True)
    }


def leakage(train: Split, other: Split, sources: Mapping[str, str]) -> dict[str, int]:
    """Count what a split shares with the training clips.

    Returns
    -------
    dict
        ``queries`` and ``clips`` of the other split; ``verbatim_queries``, those that are word for word a training
        caption; ``shared_source_clips``, those cut from the source video of a training clip.
    """
    texts = {caption.text for caption in train.captions}
    train_sources = {sources[clip_id] for clip_id in train.clip_ids}
    return {
        "queries": len(other.captions),
        "verbatim_queries": sum(caption.text in texts for caption in other.captions),
        "clips": len(other.clip_ids),
        "shared_source_clips": sum(sources[clip_id] in train_sources for clip_id in other.clip_ids),
    }
