"""Write captions of clips with the decoder of a trained run, from each clip's own codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supportset.evaluate.splits import default_split
from supportset.store.errors import UsageError
from supportset.store.files import LocalFolder
from supportset.store.format.dataset import Dataset
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.device import choose_device
from supportset.train.encode import evaluating
from supportset.train.model.decoder import IGNORED
from supportset.train.model.model import SupportSetModel
from supportset.train.open_run import open_run_on_store
from supportset.train.registry import CAPTIONING


@dataclass(frozen=True)
class WrittenCaption:
    """A caption, with the decoder's confidence in it.

    Attributes
    ----------
    clip_id : str
    caption : str
    score : float
        Mean log-likelihood of its tokens, in nats; nearer to 0 is more certain.
    """

    clip_id: str
    caption: str
    score: float


@dataclass(frozen=True)
class Captions:
    """Result of `caption`.

    Attributes
    ----------
    written : list of WrittenCaption
        In the order of the requested clips.
    missing : list of str
        Requested clips without features.
    """

    written: list[WrittenCaption]
    missing: list[str]


def caption(
    run: str | Path,
    store: str | Path = "features",
    *,
    split: str | None = None,
    clips: Sequence[str] = (),
    protocol: str | None = None,
    dataset: str | None = None,
    beams: int = 5,
    force: bool = False,
    device: str = "auto",
    batch_size: int = 32,
) -> Captions:
    """Write a caption for each clip of a split, or for some clips.

    Parameters
    ----------
    run : str or Path
        Run folder.
    store : str or Path
        Folder of the feature store.
    split : str, optional
        By default as of `evaluate`; not with ``clips``.
    clips : sequence of str
        Clip ids.
    protocol : str, optional
        By default the run's.
    dataset : str, optional
        By default the run's. Another one must have features of the run's recipes.
    beams : int
        Width of the beam search; 1 is greedy decoding.
    force : bool
        Also where the decoder was never trained on a clip's own codes.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    batch_size : int
        Clips at a time.

    Raises
    ------
    UsageError
        A run without a decoder, or with one that was never trained on a clip's own codes; unknown names; both a split
        and clips; no clip with features.
    """
    opened = open_run_on_store(run, store, dataset)
    folder, config, tables, features = opened.folder, opened.config, opened.dataset, opened.features
    captioning = config.support.captioning
    if not config.captions:
        raise UsageError(
            f"{folder.path}: support.captioning is {captioning!r}, so the run has no decoder; train with 'hybrid'"
        )
    if not CAPTIONING.load(captioning).learns_own and not force:
        raise UsageError(
            f"{folder.path}: support.captioning is {captioning!r}, so the decoder never saw a clip's own codes alone: "
            "train with 'identity' or 'hybrid' for captions, or give --force"
        )
    if split and clips:
        raise UsageError("give either --split or --clips")
    if beams < 1:
        raise UsageError(f"--beams {beams}: at least 1")
    chosen = choose_device(device)
    asked = _asked(tables, clips) if clips else _of_split(tables, protocol or config.data.protocol, split, config)
    there = set(features.clip_ids)
    present = [clip_id for clip_id in asked if clip_id in there]
    if not present:
        raise UsageError(f"{tables.name}: none of the {len(asked)} requested clips has features; run extract for them")
    model = opened.load_model(device)
    held = ClipFeatures(features, present, config.data.max_steps, device=chosen)
    written: list[WrittenCaption] = []
    with evaluating(model):
        for start in range(0, len(present), batch_size):
            rows = torch.arange(start, min(start + batch_size, len(present))).numpy()
            values, mask = held.gather(rows)
            texts, scores = write(model, values.to(chosen).float(), mask.to(chosen), beams, config.data.max_tokens)
            part = zip(present[start : start + batch_size], texts, scores.tolist(), strict=True)
            written += [WrittenCaption(*each) for each in part]
    return Captions(written, [clip_id for clip_id in asked if clip_id not in there])


def write(
    model: SupportSetModel, features: Tensor, mask: Tensor, beams: int, max_tokens: int
) -> tuple[list[str], Tensor]:
    """Captions of (C, T, D) features with their (C, T) bool mask, and the (C,) mean log-likelihood of their tokens."""
    if model.decoder is None:
        raise ValueError("a model without captioning has no decoder")
    codes = model.encode_video(features, mask)
    tokens = model.decoder.generate(codes.sequence, codes.mask, max_tokens, beams)[:, 1:]
    labels = until_end(tokens, model.decoder.end)
    scores = -model.decoder(codes.sequence, codes.mask, labels)
    return model.detokenize(tokens.tolist()), scores


def until_end(tokens: Tensor, end: int) -> Tensor:
    """Written tokens (N, L) as labels: what comes after the end token is padding."""
    after = (tokens == end).long().cumsum(1) - (tokens == end).long()
    return tokens.masked_fill(after > 0, IGNORED)


def write_lines(captions: Captions, path: str | Path) -> None:
    """Write one JSON object a line, ``{"clip_id": ..., "caption": ..., "score": ...}``; complete or not at all."""
    path = Path(path)
    lines = [json.dumps(vars(each), ensure_ascii=False) + "\n" for each in captions.written]
    LocalFolder(path.parent).put({path.name: ["".join(lines).encode("utf-8")]})


def _asked(tables: Dataset, clips: Sequence[str]) -> list[str]:
    known = set(tables.clips["clip_id"].to_pylist())
    if unknown := [clip_id for clip_id in clips if clip_id not in known]:
        raise UsageError(
            f"{tables.name}: no clip {unknown[0]!r}" + (f", nor {len(unknown) - 1} more" * (len(unknown) > 1))
        )
    return list(dict.fromkeys(clips))


def _of_split(tables: Dataset, protocol: str, split: str | None, config: Any) -> list[str]:
    return tables.split_clips(protocol, split or default_split(tables, protocol, config.data.train_split))
