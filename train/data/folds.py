"""Cross-validation by source video, for datasets without a test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from supportset.evaluate.splits import Split, hold_out, leakage, read_split, source_videos
from supportset.store.errors import UsageError
from supportset.train.config import Config
from supportset.train.data.source import HOLDOUT, RunData, fingerprint, open_run_data


def fold_of_clips(clip_ids: Sequence[str], sources: Mapping[str, str], folds: int) -> dict[str, int]:
    """Assign clips to folds by source video: folds of about equal size, independent of the order of the clips.

    Raises
    ------
    UsageError
        Fewer source videos than folds.
    """
    groups: dict[str, list[str]] = {}
    for clip_id in clip_ids:
        groups.setdefault(sources[clip_id], []).append(clip_id)
    if len(groups) < folds:
        raise UsageError(f"{len(groups)} source videos cannot be cut into {folds} folds; ask for fewer")
    names = sorted(groups)
    shuffled = [names[i] for i in np.random.default_rng([0, len(names)]).permutation(len(names))]
    sizes = [0] * folds
    found: dict[str, int] = {}
    for name in sorted(shuffled, key=lambda name: -len(groups[name])):  # large ones first, so that sizes come out even
        fold = sizes.index(min(sizes))
        sizes[fold] += len(groups[name])
        found |= dict.fromkeys(groups[name], fold)
    return found


def open_fold(config: Config, store: str | Path, fold: int, folds: int) -> tuple[RunData, Split]:
    """Open the training data of one fold, and the fold to score on.

    Parameters
    ----------
    config : Config
        Its training split is what is cut into folds: the clips of it that have features.
    fold : int
        From 0.

    Returns
    -------
    RunData
        The other folds; ``data.holdout`` of their clips are held out of them for validation.
    Split
        The fold with all captions of its clips, blank ones included, as `evaluate` asks with them.

    Raises
    ------
    UsageError
        As `open_run_data`; fewer source videos than folds.
    """
    data = config.data.model_copy(update={"holdout": 0.0, "validation_split": ""})
    every = open_run_data(
        config.model_copy(update={"data": data, "optim": config.optim.model_copy(update={"select_by": "last"})}), store
    )
    sources = source_videos(every.dataset)
    available = set(every.features.clip_ids)
    present = read_split(every.dataset, config.data.protocol, config.data.train_split, available).only_present()
    fold_of = fold_of_clips(present.clip_ids, sources, folds)
    test = present.of_clips("fold", {clip_id for clip_id, number in fold_of.items() if number == fold})
    rest = {clip_id for clip_id, number in fold_of.items() if number != fold}
    train = every.train.of_clips(every.train.name, rest)
    validation: Split | None = None
    if config.data.holdout > 0:
        train, validation = hold_out(train, sources, config.data.holdout, seed=0)
    elif config.optim.select_by != "last":
        raise UsageError(
            f"optim.select_by = {config.optim.select_by!r} needs validation clips: set data.holdout above 0, or set "
            "optim.select_by=last"
        )
    record = every.record | {
        "fold": {"number": fold, "of": folds, "clips": len(test.clip_ids), "captions": len(test.captions)},
        "train": every.record["train"] | {"clips": len(train.clip_ids), "captions": len(train.captions)},
        "validation": None
        if validation is None
        else {
            "split": HOLDOUT,
            "clips": len(validation.clip_ids),
            "captions": len(validation.captions),
            "clips_without_features": [],
        },
        "holdout": [] if validation is None else list(validation.clip_ids),
        "leakage": {split.name: leakage(train, split, sources) for split in (test, validation) if split is not None},
        "fingerprint": fingerprint(every.features.sets, train, validation, every.text),
    }
    notes = [
        f"fold {fold + 1} of {folds}: training on {len(train.clip_ids)} clips, {len(train.captions)} captions; "
        f"{len(test.clip_ids)} clips are held out"
    ]
    return replace(every, train=train, validation=validation, record=record, notes=notes), test
