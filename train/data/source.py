"""Open what a run reads: the dataset, its features, training and validation captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supportset.evaluate.splits import (
    Split,
    default_split,
    has_default_split,
    hold_out,
    leakage,
    read_captions,
    read_split,
    source_videos,
)
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.card import FeatureCard
from supportset.store.format.dataset import Dataset, open_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.feature_set import FeatureSet
from supportset.train.config import Config
from supportset.train.data.feature_sets import clip_checksums, feature_record, open_features

if TYPE_CHECKING:
    from supportset.train.data.cached_text import CachedText  # imports torch

HOLDOUT = "holdout"


@dataclass
class RunData:
    """What training reads.

    Attributes
    ----------
    dataset : Dataset
        The tables.
    features : AlignedFeatures
        The feature sets, side by side.
    train : Split
        Clips with features and their captions, without validation clips.
    validation : Split or None
        The held-out clips, or the split named for it.
    record : dict
        Content of the run's ``data.json``.
    notes : list of str
        Lines for the user.
    text : CachedText or None
        Stored features of the captions; None where the model reads tokens.
    visual : FeatureCard or None
        Card of the first feature set, which says what encoder pair made it.
    """

    dataset: Dataset
    features: AlignedFeatures
    train: Split
    validation: Split | None
    record: dict[str, Any]
    notes: list[str]
    text: CachedText | None = None
    visual: FeatureCard | None = None


def open_run_data(config: Config, store: str | Path) -> RunData:
    """Open everything that a configuration names, before anything is written.

    Raises
    ------
    UsageError
        Unknown dataset, feature set, protocol or split; an empty split; nothing to validate on where
        ``optim.select_by`` needs it; a training side of fewer than two clips; captions without the text features that
        ``text.features`` asks for.
    """
    dataset = open_dataset(store, config.data.dataset)
    sets = [open_features(store, config.data.dataset, words) for words in config.data.features]
    for feature_set in sets:
        feature_set.check = config.data.check
    text: CachedText | None = None
    if config.text.features:
        from supportset.train.data.cached_text import CachedText

        found = open_features(store, dataset.name, config.text.features, "text")
        found.check = config.data.check
        text = CachedText(found, dataset.name, store)
    features = AlignedFeatures(sets, dataset.gone)
    available = set(features.clip_ids)
    sources = source_videos(dataset)
    protocol = config.data.protocol
    every = read_split(dataset, protocol, config.data.train_split, available)
    train = _with_captions(every.only_present())
    if not train.captions:
        raise UsageError(
            f"{dataset.name}: no clip of split {config.data.train_split!r} of protocol {protocol!r} has a caption, so "
            "nothing can be trained; add captions to the dataset and run extract again"
        )
    validation: Split | None = None
    if config.data.validation_split:
        _refuse_as_validation(config)
        validation = read_split(dataset, protocol, config.data.validation_split, available)
        _refuse_overlap(dataset, protocol, config.data.train_split, train, validation)
    elif config.data.holdout > 0:
        # The same clips for every seed, so that runs can be compared on them.
        train, validation = hold_out(train, sources, config.data.holdout, seed=0)
    if validation is None and config.optim.select_by != "last":
        raise UsageError(
            f"optim.select_by = {config.optim.select_by!r} needs validation clips: set data.holdout above 0 or name a "
            "data.validation_split, or set optim.select_by=last"
        )
    if validation is not None and not validation.captions:
        raise UsageError(f"{dataset.name}: split {validation.name!r} has no captions, so nothing to validate on")
    if len(train.clip_ids) < 2:
        raise UsageError(
            f"{dataset.name}: split {config.data.train_split!r} of protocol {protocol!r} leaves {len(train.clip_ids)} "
            "clips with features and captions to train on; at least 2 are needed"
        )
    if text is not None:
        text.check([*train.captions, *(validation.captions if validation is not None else ())])
    others = [name for name in dataset.split_names(protocol) if name != config.data.train_split]
    asked = [read_captions(dataset, protocol, name) for name in others]
    if validation is not None and validation.name == HOLDOUT:
        asked.append(validation)
    record = {
        "dataset": dataset.name,
        "protocol": protocol,
        "features": [feature_record(feature_set) for feature_set in sets],
        "text_features": None if text is None else text.record(),
        "train": {
            "split": config.data.train_split,
            "clips": len(train.clip_ids),
            "captions": len(train.captions),
            "clips_without_features": sorted(every.missing),
            "clips_gone": sorted(every.missing & dataset.gone),
            "captions_without_features": sum(caption.clip_id in every.missing for caption in every.captions),
            "clips_without_captions": sorted(set(every.present) - set(_with_captions(every).clip_ids)),
            "blank_captions": sum(not caption.text.strip() for caption in every.captions),
        },
        "validation": None
        if validation is None
        else {
            "split": validation.name,
            "clips": len(validation.clip_ids),
            "captions": len(validation.captions),
            "clips_without_features": sorted(validation.missing),
        },
        "holdout": list(validation.clip_ids) if validation is not None and validation.name == HOLDOUT else [],
        "leakage": {split.name: leakage(train, split, sources) for split in asked},
        "fingerprint": fingerprint(sets, train, validation, text),
    }
    return RunData(dataset, features, train, validation, record, _notes(record), text, sets[0].card)


def split_to_score(config: Config, data: RunData) -> str:
    """The split that `eval` can score first: its default, the clips held out, the validation split, the training split.

    Empty for the default.
    """
    tables, protocol, trained = data.dataset, config.data.protocol, config.data.train_split
    held = [HOLDOUT] if data.record["holdout"] else []
    first = default_split(tables, protocol, trained) if has_default_split(tables, protocol, trained) else ""
    for name in filter(None, (first, *held, config.data.validation_split)):
        with suppress(SupportsetError):  # a split without clips or features, captions without text features
            given = name == HOLDOUT
            part = data.validation if given else read_split(tables, protocol, name, set(data.features.clip_ids))
            if part is None or not part.captions:
                continue
            if data.text is not None:
                data.text.check(part.captions)
            return "" if name == first else name
    return trained


def fingerprint(
    sets: Sequence[FeatureSet], train: Split, validation: Split | None, text: CachedText | None = None
) -> str:
    """Hash of everything in the store that a run's numbers depend on; a resumed run needs the same."""
    lines: list[str] = []
    splits = [split for split in (train, validation) if split is not None]
    clip_ids = [clip_id for split in splits for clip_id in split.present]
    for feature_set in sets:
        lines += [feature_set.card.recipe.hash, *clip_checksums(feature_set, clip_ids)]
    for split in splits:
        lines += split.clip_ids
        for caption in split.captions:
            lines += (caption.caption_id, caption.clip_id, caption.text)
    if text is not None:
        lines.append(text.recipe.hash)
        for split in splits:
            lines += text.checksums(split.captions)
    return digest(lines)


def digest(lines: Iterable[str]) -> str:
    """``blake2b:<hex>`` of a sequence of strings."""
    state = hashlib.blake2b(digest_size=16)
    for line in lines:
        encoded = line.encode("utf-8")
        state.update(len(encoded).to_bytes(8, "little") + encoded)
    return f"blake2b:{state.hexdigest()}"


def _refuse_as_validation(config: Config) -> None:
    name = config.data.validation_split
    if name == config.data.train_split:
        raise UsageError(f"data.validation_split = {name!r} is the training split; leave it empty to hold out a part")
    if name == HOLDOUT:
        raise UsageError(
            f"data.validation_split = {name!r} is what a part cut off from the training clips is called; leave it "
            "empty to cut one off, or give the dataset's split another name"
        )
    if name.lower().startswith("test"):
        raise UsageError(
            f"data.validation_split = {name!r}: models are never selected on a test split; leave it empty to hold out "
            "a part of the training clips"
        )


def _refuse_overlap(dataset: Dataset, protocol: str, train_split: str, train: Split, validation: Split) -> None:
    """A model is selected neither on clips it was trained on nor on those of the protocol's test gallery."""
    test = set(dataset.split_clips(protocol, "test")) if "test" in dataset.split_names(protocol) else set()
    for others, words in ((set(train.clip_ids), f"of split {train_split!r}, trained on"), (test, "of split 'test'")):
        if shared := [clip_id for clip_id in validation.clip_ids if clip_id in others]:
            raise UsageError(
                f"data.validation_split = {validation.name!r}: {len(shared)} of its {len(validation.clip_ids)} clips "
                f"are also {words} (the first: {shared[0]!r}); name splits that share no clip, or leave it empty to "
                "hold out a part of the training clips"
            )


def _with_captions(split: Split) -> Split:
    """Leave out blank captions, and then clips without any: nothing can be learned from them."""
    captions = tuple(caption for caption in split.captions if caption.text.strip())
    captioned = {caption.clip_id for caption in captions}
    clip_ids = tuple(clip_id for clip_id in split.clip_ids if clip_id in captioned)
    return Split(split.name, clip_ids, captions, frozenset())


def _notes(record: dict[str, Any]) -> list[str]:
    train, validation = record["train"], record["validation"]
    notes = [f"training on {train['clips']} clips, {train['captions']} captions of {record['dataset']}"]
    if absent := train["clips_without_features"]:
        names = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        notes.append(
            f"left out: {len(absent)} training clips without features ({names}) and their "
            f"{train['captions_without_features']} captions; data.json names them all"
        )
    if gone := len(train["clips_gone"]):
        notes.append(f"{gone} of these had features, but their videos are gone; `extract --gone keep` uses them again")
    if train["clips_without_captions"]:
        notes.append(f"left out: {len(train['clips_without_captions'])} training clips without captions")
    if train["blank_captions"]:
        notes.append(f"left out: {train['blank_captions']} blank captions")
    if validation is not None:
        held = " held out by source video" if validation["split"] == HOLDOUT else f" of split {validation['split']!r}"
        absent = len(validation["clips_without_features"])
        notes.append(
            f"validating on {validation['clips']} clips, {validation['captions']} captions{held}"
            + (f"; {absent} of them have no features and count as misses" if absent else "")
        )
    for split, counts in record["leakage"].items():
        if split == HOLDOUT:  # cut off by source; what captions it shares is in data.json
            continue
        if counts["verbatim_queries"]:
            notes.append(
                f"leakage: {counts['verbatim_queries']} of {counts['queries']} {split} queries are word for word "
                "training captions"
            )
        if counts["shared_source_clips"]:
            notes.append(
                f"leakage: {counts['shared_source_clips']} of {counts['clips']} {split} clips share their source video "
                "with a training clip"
            )
    return notes
