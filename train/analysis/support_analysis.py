"""Where the support set's attention goes: how sharp it is, and whether it finds clips that are spoken of alike.

Captions of a split attend over its clips, in random groups of the size of a training batch, as they would in training.
The weights are those of the `cross` variant, whatever the run was trained with, so that runs can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.splits import default_split, source_videos
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption
from supportset.train.analysis.caption_groups import caption_groups, owners
from supportset.train.analysis.reconstruction import describe_reconstruction, reconstruction_stats
from supportset.train.analysis.words import content_words
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.device import choose_device
from supportset.train.encode import encode_gallery, encode_tokens, read_text
from supportset.train.open_run import open_run_on_store

Floats = NDArray[np.floating]


def support_stats(
    text: Floats,
    video: Floats,
    captions: Sequence[Caption],
    clip_ids: Sequence[str],
    sources: Mapping[str, str],
    *,
    temperature: float,
    size: int,
    seed: int = 0,
) -> dict[str, float]:
    """Means over the captions whose clip is there.

    Parameters
    ----------
    text : ndarray
        (N, d) embeddings of ``captions``.
    video : ndarray
        (P, d) embeddings of ``clip_ids``.
    sources : dict of str to str
        Source video of each clip.
    temperature : float
        Of the softmax.
    size : int
        Clips of a group.
    seed : int
        Of the groups.

    Returns
    -------
    dict
        ``support_clips`` (other clips in a group, mean), ``entropy`` of the weights and ``entropy_of_uniform`` in nats,
        ``effective_clips`` (the exponential of the mean entropy), ``highest_weight``, ``own_weight`` (that the own clip
        would have if it stood in the set), ``shared_words`` (share of the caption's content words that captions of an
        attended clip also have, by weight) and ``shared_words_of_uniform``, ``same_source_weight``.

    Raises
    ------
    ValueError
        Fewer than two clips.
    """
    if len(clip_ids) < 2:
        raise ValueError("attention over other clips needs at least two clips")
    said = _WordTable(captions)
    owner = owners(captions, clip_ids)
    source = np.unique([sources[clip_id] for clip_id in clip_ids], return_inverse=True)[1]
    text, video = _unit(text), _unit(video)
    found: list[NDArray[np.float64]] = []
    for clips, rows in caption_groups(owner, len(clip_ids), size, np.random.default_rng(seed)):
        own = owner[rows][:, None] == clips[None]  # (n, c)
        logits = (text[rows] @ video[clips].T) / temperature
        weights, among_all = _softmax(np.where(own, -np.inf, logits)), _softmax(logits)
        uniform = ~own / (len(clips) - 1)
        shared = said.shared(rows, [clip_ids[clip] for clip in clips])
        same_source = source[owner[rows]][:, None] == source[clips][None]
        entropy = -(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(1)
        spoken = said.spoken[rows]  # a caption of empty words shares nothing with any
        found.append(
            np.stack(
                [
                    np.full(len(rows), len(clips) - 1.0),
                    entropy,
                    np.full(len(rows), np.log(len(clips) - 1)),
                    weights.max(1),
                    among_all[own],
                    np.where(spoken, (weights * shared).sum(1), np.nan),
                    np.where(spoken, (uniform * shared).sum(1), np.nan),
                    (weights * same_source).sum(1),
                ]
            )
        )
    names = (
        "support_clips", "entropy", "entropy_of_uniform", "highest_weight", "own_weight", "shared_words",
        "shared_words_of_uniform", "same_source_weight",
    )  # fmt: skip
    table = np.concatenate(found, axis=1)
    told = [row[~np.isnan(row)] for row in table]
    means = {name: float(row.mean()) if len(row) else 0.0 for name, row in zip(names, told, strict=True)}
    return means | {"effective_clips": float(np.exp(means["entropy"]))}


def support_report(
    run: str | Path,
    store: str | Path = "features",
    *,
    split: str | None = None,
    examples: int = 8,
    temperatures: Sequence[float] = (),
    size: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """`support_stats` and `reconstruction_stats` of a run on a split, with examples.

    Left in the run's ``eval/`` as ``attention-SPLIT.json``.

    Parameters
    ----------
    run, store, split, device : str or Path, str, optional, str
        As of `evaluate`.
    examples : int
        Captions to show with the clips that they attend to most, of all clips of the split.
    temperatures : sequence of float
        Others than the run's to look at its embeddings with; their statistics are below ``at``.
    size : int, optional
        Clips of a group, in place of a batch's.

    Raises
    ------
    UsageError
        A temperature that is not positive, a size below 2, no run, no model, unknown names, a split with fewer than two
        clips that have features.
    """
    for wrong in (each for each in temperatures if not each > 0):
        raise UsageError(f"temperature {wrong:g}: give a positive number")
    if size is not None and size < 2:
        raise UsageError(f"size {size}: give at least 2 clips")
    chosen, opened = choose_device(device), open_run_on_store(run, store)
    folder, config, tables = opened.folder, opened.config, opened.dataset
    features, stored_text, protocol = opened.features, opened.text, config.data.protocol
    split = split or default_split(tables, protocol, config.data.train_split)
    part = opened.read_split(protocol, split)
    if len(part.present) < 2 or not part.captions:
        raise UsageError(f"{tables.name}: split {split!r} has fewer than two clips with features, or no captions")
    if stored_text is not None:
        stored_text.check(part.captions)
    model = opened.load_model(device)
    video = encode_gallery(model, features, part.present, config.data.max_steps)
    text = encode_tokens(model, read_text(model, part.captions, config.data.max_tokens, stored_text))
    temperature = config.support.temperature
    sources = source_videos(tables)

    def stats(at: float) -> dict[str, float]:
        clips = size or config.optim.batch_size
        return support_stats(text, video, part.captions, part.present, sources, temperature=at, size=clips)

    result = {
        "run": str(folder.path),
        "protocol": protocol,
        "split": split,
        "captioning": config.support.captioning,
        "temperature": temperature,
        "attention": stats(temperature),
        "at": [{"temperature": each} | stats(each) for each in temperatures],
        "reconstruction": None,
        "examples": _examples(text, video, part.captions, part.present, temperature, examples),
    }
    if model.decoder is not None:
        clips = ClipFeatures(features, part.present, config.data.max_steps, device=chosen)
        group = size or config.optim.batch_size
        result["reconstruction"] = reconstruction_stats(model, text, clips, part.captions, size=group)
    folder.write_json(f"eval/attention-{split}.json", result)
    return result


def describe(result: Mapping[str, Any]) -> str:
    """What `support_report` found, for people."""
    found = result["attention"]
    lines = [
        f"attention of {result['protocol']}, split {result['split']}, over {found['support_clips']:.0f} other clips, "
        f"T = {result['temperature']:g} (trained: {result['captioning']})",
        f"  entropy           {found['entropy']:.2f} nats of {found['entropy_of_uniform']:.2f}: as if over "
        f"{found['effective_clips']:.1f} clips; highest weight {found['highest_weight']:.3f}",
        f"  shared words      {100 * found['shared_words']:.1f} % of a caption's content words are also said of the "
        f"clips attended to; {100 * found['shared_words_of_uniform']:.1f} % of any others",
        f"  own clip          would have {found['own_weight']:.3f} of the weight if it stood in the set",
        f"  same source video {found['same_source_weight']:.3f} of the weight",
    ]
    for at in result["at"]:
        lines.append(
            f"  at T = {at['temperature']:<10g} as if over {at['effective_clips']:.1f} clips; "
            f"shared words {100 * at['shared_words']:.1f} %; own clip {at['own_weight']:.3f}"
        )
    if result["reconstruction"] is not None:
        lines += describe_reconstruction(result["reconstruction"])
    for example in result["examples"]:
        lines += ["", f"{example['caption']}"]
        lines += [f"  {each['weight']:.3f}  {each['clip_id']}  {each['caption']}" for each in example["attended"]]
    return "\n".join(lines)


class _WordTable:
    """Content words of captions, and of all captions of a clip together."""

    def __init__(self, captions: Sequence[Caption]) -> None:
        self._words = [content_words(caption.text) for caption in captions]
        self.spoken = np.asarray([bool(words) for words in self._words])
        self._of_clip: dict[str, set[str]] = {}
        for caption, words in zip(captions, self._words, strict=True):
            self._of_clip.setdefault(caption.clip_id, set()).update(words)

    def shared(self, rows: NDArray[np.int64], clip_ids: Sequence[str]) -> NDArray[np.float64]:
        """(n, c) share of a caption's words that captions of a clip have."""
        words = sorted(set().union(*(self._words[row] for row in rows)))
        place = {word: number for number, word in enumerate(words)}
        mine, theirs = np.zeros((len(rows), len(words))), np.zeros((len(clip_ids), len(words)))
        for number, row in enumerate(rows):
            mine[number, [place[word] for word in self._words[row]]] = 1.0
        for number, clip_id in enumerate(clip_ids):
            theirs[number, [place[word] for word in self._of_clip.get(clip_id, ()) if word in place]] = 1.0
        count: NDArray[np.float64] = mine.sum(1, keepdims=True)
        return (mine @ theirs.T) / np.maximum(count, 1.0)


def _examples(
    text: Floats, video: Floats, captions: Sequence[Caption], clip_ids: Sequence[str], temperature: float, count: int
) -> list[dict[str, Any]]:
    """Evenly chosen captions, and the three other clips of the whole split that they attend to most."""
    first = {caption.clip_id: caption.text for caption in reversed(captions)}
    shown = []
    for row in range(0, len(captions), max(1, len(captions) // max(1, count))):
        own = np.asarray([clip_id == captions[row].clip_id for clip_id in clip_ids])
        logits = _unit(text[row : row + 1]) @ _unit(video).T / temperature
        weights = _softmax(np.where(own[None], -np.inf, logits))[0]
        attended = [
            {"clip_id": clip_ids[clip], "weight": float(weights[clip]), "caption": first.get(clip_ids[clip], "")}
            for clip in np.argsort(-weights, kind="stable")[:3]
        ]
        shown.append({"caption": captions[row].text, "clip_id": captions[row].clip_id, "attended": attended})
    return shown[:count]


def _unit(vectors: Floats) -> NDArray[np.float64]:
    wide = np.asarray(vectors, dtype=np.float64)
    unit: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    weights: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return weights
