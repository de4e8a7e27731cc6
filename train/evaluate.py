"""Evaluation of a run on one split of one protocol: scores, intervals, what was missing, and the ranks themselves."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from supportset.evaluate.scores import RetrievalScores, intervals, score_embeddings
from supportset.evaluate.splits import Split, leakage, read_captions, read_split
from supportset.store.errors import UsageError
from supportset.store.files import LocalFolder
from supportset.store.format.dataset import Dataset, open_dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.train.config import Config
from supportset.train.data.cached_text import CachedText
from supportset.train.data.feature_sets import open_recorded_features, open_recorded_text
from supportset.train.data.source import HOLDOUT, source_videos
from supportset.train.device import choose_device
from supportset.train.encode import encode_gallery, encode_tokens, read_text
from supportset.train.model.model import SupportSetModel
from supportset.train.run_folder import RunFolder


def evaluate(
    run: str | Path,
    protocol: str | None = None,
    split: str | None = None,
    store: str | Path = "features",
    *,
    dataset: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a trained run, and leave the scores and the ranks in its folder.

    Parameters
    ----------
    run : run folder
    protocol : by default the one the run was trained on
    split : by default ``test``, or the protocol's only split besides the training split; ``holdout`` is the part of
        the training clips that the run held out
    store : folder of the feature store
    dataset : by default the run's; another one must have features of the run's recipes
    device : ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``

    Returns
    -------
    dict
        ``protocol``, ``split``, ``dataset``, ``gallery`` (clips, missing ones included), ``expected_gallery`` (None:
        the protocol asks for no number), ``gallery_complete``, ``queries`` (captions), ``missing`` (clips without
        features: misses), ``t2v`` and ``v2t`` with ``R@1``, ``R@5``, ``R@10``, ``R@50`` in percent, ``MdR``, ``MnR``;
        ``rsum``; ``intervals`` of the recalls (95 %, bootstrap by clip); ``leakage``, what the split shares with the
        clips trained on, as the run recorded it, or as counted now for another protocol (None: another dataset, or the
        training split itself); ``run``, ``model``, ``features``, ``text_features``, ``files``.

    Raises
    ------
    UsageError
        No run, no model yet, an unknown name, an empty split, a store without the run's features.
    """
    folder = RunFolder(run)
    config = folder.load_config()
    record = folder.data_record()
    model_folder = folder.model_folder()
    chosen = choose_device(device)
    tables = open_dataset(store, dataset or config.data.dataset)
    protocol = protocol or config.data.protocol
    split = split or default_split(tables, protocol, config.data.train_split)
    features = open_recorded_features(record, store, tables.name)
    text = open_recorded_text(record, store, tables.name)
    part = _read(tables, protocol, split, set(features.clip_ids), record, config)
    if text is not None:
        text.check(part.captions)
    if not part.captions:
        raise UsageError(f"{tables.name}: split {split!r} of protocol {protocol!r} has no captions to ask with")

    model = SupportSetModel.from_pretrained(model_folder, device=str(chosen))
    scores = score_split(model, part, features, config, text)
    expected = None if split == HOLDOUT else tables.expected(protocol, split)
    own_dataset = tables.name == config.data.dataset
    stem = "-".join([*([] if own_dataset else [tables.name]), protocol, split])
    result = {
        "protocol": protocol,
        "split": split,
        "dataset": tables.name,
        "gallery": len(part.clip_ids),
        "expected_gallery": expected,
        "gallery_complete": not part.missing and expected in (None, len(part.clip_ids)),
        "queries": len(part.captions),
        "missing": len(part.missing),
        "t2v": scores.t2v,
        "v2t": scores.v2t,
        "rsum": scores.rsum,
        "intervals": intervals(part, scores),
        "leakage": _leakage(tables, protocol, part, record, config),
        "run": str(folder.path),
        "model": folder.model_hash(),
        "features": [entry["folder"] for entry in record["features"]],
        "text_features": None if text is None else text.recipe.folder,
        "files": {
            "scores": str(folder.eval / f"{stem}.json"),
            "ranks": str(folder.eval / f"{stem}-ranks.parquet"),
        },
    }
    LocalFolder(folder.eval).put({f"{stem}-ranks.parquet": [_ranks_file(part, scores)]})
    folder.write_json(f"eval/{stem}.json", result | {"clips_without_features": sorted(part.missing)})
    return result


def score_split(
    model: SupportSetModel, part: Split, features: AlignedFeatures, config: Config, text: CachedText | None = None
) -> RetrievalScores:
    """Encode a split's clips and captions, and score them; ``text`` for a model that reads text features."""
    video: NDArray[np.float32] = encode_gallery(model, features, part.present, config.data.max_steps)
    return score_embeddings(
        part, video, encode_tokens(model, read_text(model, part.captions, config.data.max_tokens, text))
    )


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
    raise UsageError(f"protocol {protocol!r} has no split 'test': name one with --split, of {', '.join(names)}")


def describe(result: dict[str, Any]) -> str:
    """What `evaluate` found, as a table for people."""
    gallery = f"{result['gallery']:,} clips"
    if result["expected_gallery"] not in (None, result["gallery"]):
        gallery += f" (the protocol asks for {result['expected_gallery']:,}: not comparable)"
    lines = [
        f"protocol  {result['protocol']}, split {result['split']} of {result['dataset']}",
        f"gallery   {gallery}",
        f"queries   {result['queries']:,} captions",
        f"missing   {result['missing']:,}"
        + (" clips without features: counted as misses" if result["missing"] else ""),
        "",
        _row("", result["t2v"]),
    ]
    for way, name in (("t2v", "text to video"), ("v2t", "video to text")):
        lines.append(_row(name, {key: f"{value:.1f}" for key, value in result[way].items()}))
        bounds = {key: "{:.1f}-{:.1f}".format(*pair) for key, pair in result["intervals"][way].items()}
        lines.append(_row("  95 %", bounds))
    lines += ["", "R@k in percent; equal scores count against us. Intervals: bootstrap over clips."]
    for key, of, words in (
        ("verbatim_queries", "queries", "queries are word for word training captions"),
        ("shared_source_clips", "clips", "clips share their source video with a training clip"),
    ):
        if result["leakage"] and result["leakage"][key]:
            lines.append(f"leakage: {result['leakage'][key]:,} of {result['leakage'][of]:,} {words}")
    return "\n".join(lines)


def _row(name: str, cells: Iterable[str] | dict[str, str]) -> str:
    shown = cells.values() if name and isinstance(cells, dict) else cells
    return f"{name:<14}" + "".join(f"{cell:>12}" for cell in shown)


def _read(
    tables: Dataset, protocol: str, split: str, available: set[str], record: dict[str, Any], config: Config
) -> Split:
    if split != HOLDOUT:
        return read_split(tables, protocol, split, available)
    if not record["holdout"] or tables.name != config.data.dataset or protocol != config.data.protocol:
        raise UsageError(
            f"the run held out no clips of protocol {protocol!r} of {tables.name!r}; name a split of the protocol"
        )
    held = set(record["holdout"])
    part = read_split(tables, protocol, config.data.train_split, available).of_clips(HOLDOUT, held)
    if gone := held.difference(part.clip_ids):
        raise UsageError(
            f"{len(gone)} of the {len(held)} clips that the run held out are no longer in split "
            f"{config.data.train_split!r} of {tables.name!r} (as {min(gone)!r}); give the store that "
            "the run was trained on"
        )
    if not part.present:
        raise UsageError(
            f"{tables.name}: none of the {len(held)} clips that the run held out has features in this store; run "
            "extract for them"
        )
    return part


def _leakage(
    tables: Dataset, protocol: str, part: Split, record: dict[str, Any], config: Config
) -> dict[str, int] | None:
    trained = config.data.protocol
    if tables.name != config.data.dataset or trained not in tables.protocols():
        return None
    if protocol == trained:
        recorded: dict[str, int] | None = record["leakage"].get(part.name)
        return recorded
    # One protocol's test clips may be another's training clips (MSR-VTT's full split and 1k-A's).
    whole = read_captions(tables, trained, config.data.train_split)
    unseen = {*record["holdout"], *record["train"]["clips_without_features"]}
    train = whole.of_clips(whole.name, set(whole.clip_ids) - unseen)
    return leakage(train, part, source_videos(tables))


def _ranks_file(part: Split, scores: RetrievalScores) -> bytes:
    """One row a query; a null rank is a miss."""
    ranks = np.concatenate([scores.t2v_ranks, scores.v2t_ranks])
    hit = np.isfinite(ranks)
    captions, clips = part.captions, scores.v2t_clips
    table = pa.table(
        {
            "direction": ["t2v"] * len(captions) + ["v2t"] * len(clips),
            "query_id": [caption.caption_id for caption in captions] + list(clips),
            "clip_id": [caption.clip_id for caption in captions] + list(clips),
            "rank": pa.array(np.where(hit, ranks, 0).astype(np.int64), mask=~hit),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
