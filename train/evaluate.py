"""Evaluate a run on one split of one protocol: scores, intervals, what was missing, and the rank of each query."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from supportset.evaluate.scores import RetrievalScores, intervals, score_embeddings
from supportset.evaluate.splits import Split, leakage, read_captions, read_split
from supportset.store.errors import UsageError
from supportset.store.files import LocalFolder
from supportset.store.format.dataset import Dataset
from supportset.store.read.aligned import AlignedFeatures
from supportset.train.config import Config
from supportset.train.data.source import HOLDOUT, source_videos
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

    Returns
    -------
    dict
        ``protocol``, ``split``, ``dataset``, ``gallery`` (clips, missing ones included), ``expected_gallery`` (None:
        the protocol states no number), ``gallery_complete``, ``queries`` (captions), ``missing`` (clips without
        features: misses), ``left_out`` (those of them that have features, but whose videos are gone),
        ``t2v`` and ``v2t`` with ``R@1``, ``R@5``, ``R@10``, ``R@50`` in percent, ``MdR``, ``MnR``;
        ``rsum``; ``intervals`` of the recalls (95 %, bootstrap by clip); ``leakage``, what the split shares with the
        clips trained on, as the run recorded it, or as counted now for another protocol (None: another dataset, or the
        training split itself); ``run``, ``model``, ``features``, ``text_features``, ``files``.

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
    split = split or default_split(tables, protocol, config.data.train_split)
    part = _read(opened, protocol, split)
    if not part.captions:
        raise UsageError(f"{tables.name}: split {split!r} of protocol {protocol!r} has no captions, so no queries")
    if text is not None:
        text.check(part.captions)

    scores = score_split(opened.load_model(device), part, opened.features, config, text)
    expected = None if split == HOLDOUT else tables.expected(protocol, split)
    stem = "-".join([*([] if opened.own_dataset else [tables.name]), protocol, split])
    result = {
        "protocol": protocol,
        "split": split,
        "dataset": tables.name,
        "gallery": len(part.clip_ids),
        "expected_gallery": expected,
        "gallery_complete": not part.missing and expected in (None, len(part.clip_ids)),
        "queries": len(part.captions),
        "missing": len(part.missing),
        "left_out": len(part.missing.intersection(opened.features.left_out)),
        "t2v": scores.t2v,
        "v2t": scores.v2t,
        "rsum": scores.rsum,
        "intervals": intervals(part, scores),
        "leakage": _leakage(opened, protocol, part),
        "run": str(folder.path),
        "model": folder.model_hash(),
        "features": [entry["folder"] for entry in opened.record["features"]],
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
    """Encode the clips and captions of a split and score them; ``text`` for a model that reads text features."""
    from supportset.train.encode import encode_gallery, encode_tokens, read_text

    video = encode_gallery(model, features, part.present, config.data.max_steps)
    tokens = read_text(model, part.captions, config.data.max_tokens, text)
    return score_embeddings(part, video, encode_tokens(model, tokens))


def has_default_split(dataset: Dataset, protocol: str, train_split: str) -> bool:
    """Whether `default_split` finds one."""
    try:
        return bool(default_split(dataset, protocol, train_split))
    except UsageError:
        return False


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


def describe(result: dict[str, Any]) -> str:
    """Format the result of `evaluate` as a table."""
    gallery = f"{result['gallery']:,} clips"
    if result["expected_gallery"] not in (None, result["gallery"]):
        gallery += f" (the protocol asks for {result['expected_gallery']:,}: not comparable)"
    lines = [
        f"protocol  {result['protocol']}, split {result['split']} of {result['dataset']}",
        f"gallery   {gallery}",
        f"queries   {result['queries']:,} captions",
        f"missing   {result['missing']:,}"
        + (" clips without features: counted as misses" if result["missing"] else "")
        + (f"; the videos of {result['left_out']:,} are gone" if result.get("left_out") else ""),
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


def _read(opened: RunOnStore, protocol: str, split: str) -> Split:
    tables, config, available = opened.dataset, opened.config, set(opened.features.clip_ids)
    if split != HOLDOUT:
        return read_split(tables, protocol, split, available)
    held = set(opened.record["holdout"])
    if not held or not opened.own_dataset or protocol != config.data.protocol:
        raise UsageError(
            f"the run held out no clips of protocol {protocol!r} of {tables.name!r}; name a split of the protocol"
        )
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
