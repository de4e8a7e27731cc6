"""Evaluate a run on one split of one protocol: scores, intervals, what was missing, and the rank of each query."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.evaluation import Evaluation
from supportset.evaluate.scoring import PLAIN, Scoring, expected_clips
from supportset.evaluate.splits import Split, default_split, leakage, read_captions, source_videos
from supportset.store.errors import UsageError
from supportset.store.read.aligned import AlignedFeatures
from supportset.train.config import Config
from supportset.train.data.source import HOLDOUT
from supportset.train.open_run import RunOnStore, open_run_on_store

if TYPE_CHECKING:
    from supportset.train.data.cached_text import CachedText
    from supportset.train.model.model import SupportSetModel


def evaluate(
    run: str | Path,
    protocol: str | None = None,
    split: str | None = None,
    store: str | Path = "features",
    *,
    dataset: str | None = None,
    device: str = "auto",
    scoring: Scoring = PLAIN,
) -> dict[str, Any]:
    """Score a trained run, and write the scores and the ranks into its folder.

    Parameters
    ----------
    run : str or Path
        Run folder.
    protocol : str, optional
        By default the one the run was trained on.
    split : str, optional
        By default ``test``, or the protocol's only split besides the training split. ``holdout`` is the part of the
        training clips that the run held out.
    store : str or Path
        Folder of the feature store.
    dataset : str, optional
        By default the run's. Another one must have features of the run's recipes.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    scoring : Scoring
        The gallery's list, how captions count, a relevance file, and what stands beside the raw score.

    Returns
    -------
    dict
        ``protocol``, ``split``, ``dataset``, ``gallery`` (clips, missing ones included), ``expected_gallery`` (None:
        the protocol states no number), ``gallery_complete``, ``queries`` (captions), ``missing`` (clips without
        features: misses), ``left_out`` (those of them that have features, but whose videos are gone), ``t2v`` and
        ``v2t`` with ``R@1``, ``R@5``, ``R@10``, ``R@50`` in percent, ``MdR``, ``MnR``;
        ``rsum``; ``ranking``: nDCG@10 and mAP of both; ``captions``, how they count; ``labels`` and ``beside``, scores
        that stand beside; ``intervals`` of the recalls (95 %, bootstrap by clip); ``leakage``, what the split shares
        with the clips trained on, as the run recorded it, or as counted now for another protocol (None: another
        dataset, or the training split itself); ``tie_rule``; ``interval``, what the intervals are; ``selected_by``,
        what chose the model; ``name`` of the score; ``run``, ``model``, ``features``, ``text_features``, ``files``.

    Raises
    ------
    UsageError
        No run, no model yet, an unknown name, an empty split, a store without the run's features.
    SupportsetError
        Features that do not match their checksums.
    """
    opened = open_run_on_store(run, store, dataset)
    folder, config, tables, text = opened.folder, opened.config, opened.dataset, opened.text
    protocol = protocol or config.data.protocol
    in_tables = scoring.table_protocol(protocol)
    split = split or default_split(tables, in_tables, config.data.train_split)
    part = scoring.prepare(opened.read_split(in_tables, split))
    if not part.captions:
        raise UsageError(f"{tables.name}: split {split!r} of protocol {protocol!r} has no captions, so no queries")
    if text is not None:
        text.check(part.captions)

    video, texts = encode_split(opened.load_model(device, decoder=False), part, opened.features, config, text)
    evaluation = Evaluation.of_embeddings(
        part,
        video,
        texts,
        scoring=scoring,
        protocol=protocol,
        dataset=tables.name,
        expected=None if split == HOLDOUT else expected_clips(protocol, tables.expected(in_tables, split)),
        subject={
            "left_out": len(part.missing.intersection(opened.features.left_out)),
            "run": str(folder.path),
            "model": folder.model_hash(),
            "features": [entry["folder"] for entry in opened.record["features"]],
            "text_features": None if text is None else text.recipe.folder,
        },
        selected_by=_selection(folder.read_best(), opened.record["validation"]),
        leakage=_leakage(opened, in_tables, part),
        prefix="" if opened.own_dataset else tables.name,
    )
    return evaluation.write(folder.eval)


def encode_split(
    model: SupportSetModel, part: Split, features: AlignedFeatures, config: Config, text: CachedText | None = None
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Embed the present clips (P, d) and the captions (N, d) of a split; ``text`` for a model of text features."""
    from supportset.train.encode import encode_gallery, encode_tokens, read_text

    video = encode_gallery(model, features, part.present, config.data.max_steps)
    tokens = read_text(model, part.captions, config.data.max_tokens, text)
    return video, encode_tokens(model, tokens)


def _selection(best: Mapping[str, Any], validation: Mapping[str, Any] | None) -> str:
    if best["select_by"] == "last" or validation is None:
        return f"last epoch ({best['epoch']})"
    return (
        f"best epoch ({best['epoch']}) by {best['select_by']} on {validation['split']}: {validation['clips']:,} clips, "
        f"{validation['captions']:,} captions"
    )


def _leakage(opened: RunOnStore, protocol: str, part: Split) -> dict[str, int] | None:
    tables, config, record = opened.dataset, opened.config, opened.record
    trained = config.data.protocol
    if not opened.own_dataset or trained not in tables.protocols():
        return None
    if protocol == trained:
        recorded: dict[str, int] | None = record["leakage"].get(part.name)
        return recorded
    # One protocol's test clips may be another's training clips (MSR-VTT's full split and 1k-A's).
    every = read_captions(tables, trained, config.data.train_split)
    unseen = {*record["holdout"], *record["train"]["clips_without_features"]}
    train = every.of_clips(every.name, set(every.clip_ids) - unseen)
    return leakage(train, part, source_videos(tables))
