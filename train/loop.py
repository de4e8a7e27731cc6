"""Training, from an opened store to a run folder, in one loop to be read from top to bottom."""

from __future__ import annotations

import random
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.batch import Batch
from train.checkpoint import Position, load_checkpoint, save_checkpoint
from train.clip_features import ClipFeatures
from train.config import Config
from train.data import TokenTable, TrainingData
from train.device import open_accelerator
from train.encode import encode_clips, encode_tokens, read_text
from train.losses import Negatives
from train.memory_bank import MemoryBank
from train.metrics_log import MetricsLog, Progress, StepWindow
from train.model import SupportSetModel
from train.report import write_card
from train.run_folder import RunFolder
from train.schedule import EpochMeans, collapse_hint, finished, rate_factor, warmup_negatives
from train.scores import score_embeddings
from train.source import RunData, open_run_data, source_videos
from train.splits import Split
from train.stop import StopRequest, TrainingInterrupted


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to.

    Attributes
    ----------
    run : the run folder
    epochs, steps : done in all
    best : ``best.json``: the epoch the saved model is of, how it was chosen, and its validation scores
    seconds : of training, earlier sittings included
    """

    run: Path
    epochs: int
    steps: int
    best: dict[str, Any]
    seconds: float


def train(
    config: Config,
    store: str | Path = "features",
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    data: RunData | None = None,
) -> TrainResult:
    """Train a model on stored features.

    Parameters
    ----------
    config : the whole run
    store : folder of the feature store; no video is opened
    out : run folder, by default ``runs/<name>``
    resume : go on from the folder's checkpoint; a folder without one starts from the beginning
    device : ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``
    data : what to train on where it is not what the configuration names: a fold of a cross-validation

    Raises
    ------
    UsageError
        A name that is not in the store, a run folder in use, a configuration that cannot be resumed.
    TrainingInterrupted
        Ctrl-C or SIGTERM; a checkpoint was saved.
    SupportsetError
        The loss is no longer finite; the store or the run folder cannot be read or written.
    """
    optim = config.optim
    folder = RunFolder(out if out is not None else Path("runs") / config.name)
    if resume and folder.started:
        folder.check_same(config)
    else:
        folder.check_free()
    accelerator = open_accelerator(optim, device)
    if data is None:
        data = open_run_data(config, store)

    random.seed(config.seed)
    torch.manual_seed(config.seed)
    texts = [caption.text for caption in data.train.captions]
    model = SupportSetModel.build(config, data.features.dim, texts, data.text.recipe if data.text is not None else None)
    loader = make_loader(config, data, model, texts, accelerator.device)
    validation = Validation(config, data, model, accelerator.device) if data.validation is not None else None
    optimizer = torch.optim.AdamW(  # with weight_decay 0, the default, this is Adam
        model.parameter_groups(optim), lr=optim.learning_rate, weight_decay=optim.weight_decay
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    bank = make_bank(config, loader, model, accelerator.device)
    sources = number_sources(config, data)

    position, print_of_data = Position(), data.record["fingerprint"]
    if resume and folder.checkpoint.exists():
        position = load_checkpoint(folder.checkpoint, model, optimizer, accelerator.scaler, print_of_data, bank)
    folder.create(config, data.record)  # on a resume: what may differ, such as the number of epochs
    total_steps = optim.epochs * loader.steps_per_epoch
    must_be_finite = {"loss"} if optim.precision == "fp16" else {"loss", "grad_norm"}  # fp16 skips infinite gradients
    window, epoch_loss = StepWindow(), EpochMeans()
    began = time.monotonic() - position.seconds
    rate: float = 0.0
    negatives: Negatives | None = None

    def checkpoint() -> None:
        position.seconds = time.monotonic() - began
        save_checkpoint(folder.checkpoint, model, optimizer, accelerator.scaler, position, print_of_data, bank)

    def record() -> None:
        steps = len(window)
        if steps:
            means = window.read(must_be_finite)
            epoch_loss.add(means, steps)
            metrics.write("train", position.step, {"epoch": epoch, "lr": rate, **means})

    with (
        StopRequest() as stop,
        closing(MetricsLog(folder, position.step)) as metrics,
        Progress(min(total_steps, optim.max_steps or total_steps), position.step) as progress,
    ):
        for note in (*data.notes, features_note(loader), *bank_notes(bank)):
            progress.line(note)
        if metrics.damaged:
            progress.line(f"{folder.metrics}: {metrics.damaged} damaged lines of an earlier sitting are removed")
        if position.step:
            progress.line(f"going on after epoch {position.epoch}, step {position.step}")
        while not finished(optim, position):
            epoch, epoch_began = position.epoch + 1, time.monotonic()
            epoch_loss.clear()
            window.clear()
            batches = loader.planned(position.epoch)
            if (left_out := loader.steps_per_epoch - batches) and not position.batch:
                metrics.write("epoch", position.step, {"epoch": epoch, "batches_left_out": left_out})
                progress.line(f"epoch {epoch}: {left_out} batches of captions of one clip alone are left out")
            for batch in window.timed(loader.batches(position.epoch, start=position.batch)):
                factor = rate_factor(optim, position.step, total_steps)
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor
                rate = optim.learning_rate * factor
                negatives = warmup_negatives(config.loss, position.step, loader.steps_per_epoch)

                batch = on_device(batch, accelerator.device, sources)
                losses = wrapped(batch, negatives=negatives, bank=bank, step=position.step)
                accelerator.backward(losses.total)
                grad_norm = accelerator.clip_grad_norm_(model.parameters(), optim.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                if bank is not None and losses.codes is not None:
                    bank.add(batch.clip_ids, losses.codes, position.step, batch.sources)

                position.step += 1
                position.batch += 1
                parts = {"loss": losses.total, "contrastive": losses.contrastive, "captioning": losses.captioning}
                window.add(position.step, batch, parts | {"grad_norm": grad_norm} | losses.stats)
                if position.step % optim.log_every == 0:
                    record()
                    progress.step(position.step, f"epoch {epoch}, loss {epoch_loss.last:.3f}")
                if stop.requested or position.step == optim.max_steps:
                    break
                if position.step % optim.checkpoint_every == 0:
                    record()  # so that no checkpoint is ever saved after a loss that is not finite
                    checkpoint()
            record()
            if stop.requested:  # after the last batch too: what comes after an epoch is done when the run goes on
                checkpoint()
                raise TrainingInterrupted(
                    f"stopped after step {position.step}; a checkpoint is saved. Go on with the same command and "
                    f"--out {folder.path} --resume"
                )

            if position.batch == batches:  # not so where max_steps ended it before
                position.epoch, position.batch = position.epoch + 1, 0
            scores = validation.scores(model) if validation is not None else {}
            if scores:
                metrics.write("validation", position.step, {"epoch": epoch, **scores})
            score = None if optim.select_by == "last" else scores[optim.select_by]
            better = score is None or position.best_score is None or score > position.best_score
            if better:
                position.best_score, position.best_epoch, position.stale_epochs = score, epoch, 0
                best = {"epoch": epoch, "step": position.step, "select_by": optim.select_by, "validation": scores}
                folder.save_model(model, best)
            else:
                position.stale_epochs += 1
            checkpoint()
            progress.line(epoch_line(epoch, optim.epochs, epoch_loss, scores, better, time.monotonic() - epoch_began))
            if hint := collapse_hint(config.loss, epoch_loss, negatives):
                progress.line(hint)
        write_card(folder)
    return TrainResult(folder.path, position.epoch, position.step, folder.read_json("best.json"), position.seconds)


class Validation:
    """The held-out clips and captions, resident, and their scores after each epoch."""

    def __init__(self, config: Config, data: RunData, model: SupportSetModel, device: torch.device) -> None:
        assert data.validation is not None
        self.split: Split = data.validation
        self.features = ClipFeatures(
            data.features, self.split.present, config.data.max_steps, device=device, place=config.data.place, buffers=2
        )
        self.tokens = read_text(model, self.split.captions, config.data.max_words, data.text)

    def scores(self, model: SupportSetModel) -> dict[str, float]:
        """Recalls, ranks and ``rsum`` of the model; always computed in float32, as `eval` does."""
        video, text = encode_clips(model, self.features), encode_tokens(model, self.tokens)
        return score_embeddings(self.split, video, text).flat()


def make_loader(
    config: Config, data: RunData, model: SupportSetModel, texts: list[str], device: torch.device | str = "cpu"
) -> TrainingData:
    """Training features where they find room, and tokens; decoder tokens only where something is captioned.

    The features of a batch are valid until the second batch after it is made.
    """
    labels = None
    if config.support.captioning != "none":
        labels = TokenTable(model.tokenize_labels(texts, config.data.max_words), 0)
    return TrainingData(
        data.train.captions,
        ClipFeatures(
            data.features, data.train.clip_ids, config.data.max_steps, device=device, place=config.data.place, buffers=2
        ),
        read_text(model, data.train.captions, config.data.max_words, data.text),
        labels,
        batch_size=config.optim.batch_size,
        per_epoch=config.data.captions_per_clip,
        seed=config.seed,
        bucket=config.data.bucket,
        bucket_by=config.data.bucket_by,
    )


def features_note(loader: TrainingData) -> str:
    """Where the training features lie, for people."""
    where = {"gpu": "in the GPU's memory", "ram": "in memory", "disk": "read from disk batch by batch"}
    return f"features: {loader.features.nbytes / 1e6:,.0f} MB {where[loader.features.place]}"


def make_bank(config: Config, loader: TrainingData, model: SupportSetModel, device: torch.device) -> MemoryBank | None:
    """The memory bank that the configuration asks for, never larger than the training clips."""
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


def bank_notes(bank: MemoryBank | None) -> list[str]:
    """What a memory bank takes, for people."""
    if bank is None:
        return []
    return [f"memory bank: {bank.places:,} clips, {bank.bytes / 1e6:,.0f} MB on {bank.mask.device} and in checkpoints"]


def number_sources(config: Config, data: RunData) -> dict[str, int] | None:
    """A number for the source video of each training clip, where such clips may not support each other."""
    if not config.support.mask_sources:
        return None
    sources = source_videos(data.dataset)
    numbers = {source: number for number, source in enumerate(sorted({sources[c] for c in data.train.clip_ids}))}
    return {clip_id: numbers[sources[clip_id]] for clip_id in data.train.clip_ids}


def on_device(batch: Batch, device: torch.device, sources: dict[str, int] | None = None) -> Batch:
    """The batch on the device, its features widened there: half the bytes to move."""
    batch = batch.to(device)
    batch.features = batch.features.float()
    if sources is not None:
        batch.sources = [sources[clip_id] for clip_id in batch.clip_ids]
    return batch


def epoch_line(
    epoch: int, epochs: int, means: EpochMeans, scores: dict[str, float], better: bool, seconds: float
) -> str:
    """What an epoch came to, for people."""
    words = [f"epoch {epoch}/{epochs}"]
    if means.steps:
        words.append(
            f"loss {means.mean('loss'):.3f} (contrastive {means.mean('contrastive'):.3f}, captioning "
            f"{means.mean('captioning'):.3f})"
        )
    if scores:
        shown = " ".join(f"{way} {scores[f'{way}/R@1']:.1f}/{scores[f'{way}/R@5']:.1f}" for way in ("t2v", "v2t"))
        words.append(f"validation R@1/5 {shown}, rsum {scores['rsum']:.1f}{' (best)' if better else ''}")
    return "  ".join([*words, f"{seconds:.1f} s"])
