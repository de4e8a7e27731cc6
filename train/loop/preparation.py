"""What a run needs before its first step: batches, the memory bank, the validation set."""

from __future__ import annotations

import torch

from supportset.evaluate.scores import score_embeddings
from supportset.evaluate.splits import Split, source_videos
from supportset.train.config import Config
from supportset.train.data.clip_features import ClipFeatures
from supportset.train.data.source import RunData
from supportset.train.data.training_data import TokenTable, TrainingData
from supportset.train.encode import encode_clips, encode_tokens, read_text
from supportset.train.loop.ranks import Ranks
from supportset.train.model.batch import Batch
from supportset.train.model.decoder import IGNORED
from supportset.train.model.memory_bank import MemoryBank
from supportset.train.model.model import SupportSetModel


class Validation:
    """The held-out clips and captions, in memory, to score the model on after each epoch."""

    def __init__(self, config: Config, data: RunData, model: SupportSetModel, device: torch.device) -> None:
        assert data.validation is not None
        self.split: Split = data.validation
        self.features = ClipFeatures(
            data.features, self.split.present, config.data.max_steps, device=device, place=config.data.place, buffers=2
        )
        self.tokens = read_text(model, self.split.captions, config.data.max_tokens, data.text)

    def scores(self, model: SupportSetModel) -> dict[str, float]:
        """Recalls, ranks and ``rsum`` of the model, computed in float32 as `eval` does."""
        video, text = encode_clips(model, self.features), encode_tokens(model, self.tokens)
        return score_embeddings(self.split, video, text).flat()


def make_loader(
    config: Config,
    data: RunData,
    model: SupportSetModel,
    texts: list[str],
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
) -> TrainingData:
    """Load the training features and tokenise the captions; the decoder's tokens only with captioning.

    The features of a batch are valid until the next one is made (the second next on a GPU). Each rank reads its shard
    of every batch.
    """
    rank, number, here = (0, 1, 1) if ranks is None else (ranks.rank, ranks.number, ranks.here)
    labels = None
    if config.captions:
        labels = TokenTable(model.tokenize_labels(texts, config.data.max_tokens), 0, filling=IGNORED)
    return TrainingData(
        data.train.captions,
        ClipFeatures(
            data.features,
            data.train.clip_ids,
            config.data.max_steps,
            device=device,
            place=config.data.place,
            buffers=2 if torch.device(device).type == "cuda" else 1,  # one stays in the processor's cache
            holders=here,
        ),
        read_text(model, data.train.captions, config.data.max_tokens, data.text),
        labels,
        batch_size=config.optim.batch_size,
        per_epoch=config.data.captions_per_clip,
        seed=config.seed,
        bucket=config.data.bucket,
        bucket_by=config.data.bucket_by,
        rank=rank,
        processes=number,
    )


def make_bank(config: Config, loader: TrainingData, model: SupportSetModel, device: torch.device) -> MemoryBank | None:
    """Create the memory bank of the configuration, at most as large as the training set; None without one."""
    if not config.support.bank:
        return None
    clips = len(loader.features)
    return MemoryBank(
        clips if config.support.bank == "all" else min(int(config.support.bank), clips),
        dim=config.dim,
        width=config.video.width,
        positions=model.video.positions(int(loader.features.lengths.max())),
        max_age=config.support.max_age,
        device=device,
        dtype={"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.optim.precision, torch.float32),
    )


def notes_of(loader: TrainingData, bank: MemoryBank | None) -> list[str]:
    """Lines for the user: the memory that features and bank take, and where."""
    where = {"gpu": "in the GPU's memory", "ram": "in memory", "disk": "read from disk batch by batch"}
    notes = [f"features: {loader.features.nbytes / 1e6:,.0f} MB {where[loader.features.place]}"]
    if thinned := loader.features.thinned:
        of = f"{thinned:,} of {len(loader.features):,} clips"
        notes.append(f"thinned evenly to data.max_steps = {int(loader.features.lengths.max())}: {of}")
    if bank is not None:
        size = f"{bank.bytes / 1e6:,.0f} MB on {bank.mask.device} and in checkpoints"
        notes.append(f"memory bank: {bank.places:,} clips, {size}")
    return notes


def number_sources(config: Config, data: RunData) -> dict[str, int] | None:
    """Number the source video of each training clip, if clips of one source must not support each other."""
    if not config.support.mask_sources:
        return None
    sources = source_videos(data.dataset)
    numbers = {source: number for number, source in enumerate(sorted({sources[c] for c in data.train.clip_ids}))}
    return {clip_id: numbers[sources[clip_id]] for clip_id in data.train.clip_ids}


def on_device(batch: Batch, device: torch.device, sources: dict[str, int] | None = None) -> Batch:
    """Move a batch to the device, and convert its features to float32 there: half the bytes to move."""
    batch = batch.to(device)
    batch.features = batch.features.float()
    if sources is not None:
        batch.sources = [sources[clip_id] for clip_id in batch.clip_ids]
    return batch
