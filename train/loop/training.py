"""Training, from an opened store to a run folder: read it from top to bottom."""

from __future__ import annotations

import random
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from supportset.train.config import Config
from supportset.train.data.source import RunData, open_run_data, split_to_score
from supportset.train.loop.checkpoint import Checkpoint, Position
from supportset.train.loop.preparation import Validation, make_bank, make_loader, notes_of, number_sources, on_device
from supportset.train.loop.ranks import Ranks, training_ranks
from supportset.train.loop.schedule import collapse_hint, finished, set_learning_rate, warmup_loss
from supportset.train.loop.stop import StopRequest, TrainingInterrupted
from supportset.train.loop.training_log import TrainingLog
from supportset.train.model.model import SupportSetModel
from supportset.train.model.weights.model_folder import check_model
from supportset.train.model_card import write_card
from supportset.train.run_folder import RunFolder


@dataclass(frozen=True)
class TrainResult:
    """Result of a finished run.

    Attributes
    ----------
    run : Path
        The run folder.
    epochs, steps : int
        Done in all.
    best : dict
        ``best.json``: the epoch of the saved model, how it was selected, and its validation scores.
    seconds : float
        Training time, including that before a resume.
    main : bool
        False in ranks other than 0.
    eval_options : str
        Options that `eval` needs to score the run: a split, where the protocol has no test split with captions.
    """

    run: Path
    epochs: int
    steps: int
    best: dict[str, Any]
    seconds: float
    main: bool = True
    eval_options: str = ""


def train(
    config: Config,
    store: str | Path = "features",
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    data: RunData | None = None,
) -> TrainResult:
    """Train a model on stored features. Where a launcher started several processes, they train together.

    Parameters
    ----------
    config : Config
        The complete run.
    store : str or Path
        Folder of the feature store; no video is opened.
    out : str or Path, optional
        Run folder, by default ``runs/<name>``.
    resume : bool
        Continue from the folder's checkpoint. A run without a checkpoint yet starts from the beginning.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    data : RunData, optional
        RunData, optional What to train on in place of what the configuration names: a fold of a cross-validation.

    Raises
    ------
    UsageError
        A name that is not in the store, a run folder in use, a configuration that cannot be resumed.
    TrainingInterrupted
        Ctrl-C or SIGTERM; a checkpoint was saved.
    SupportsetError
        The loss is no longer finite; the store or the run folder cannot be read or written; a process is lost.
    SystemExit
        Another rank failed first, and raises one of these.
    """
    folder = RunFolder(out if out is not None else Path("runs") / config.name)
    with training_ranks(config.optim, device) as ranks:
        ranks.on_rank_zero(folder.check_usable, config, resume)
        if data is None:
            data = open_run_data(config, store)
        return _train(config, folder, data, ranks, resume)


def _train(config: Config, folder: RunFolder, data: RunData, ranks: Ranks, resume: bool) -> TrainResult:
    optim, accelerator, device = config.optim, ranks.accelerator, ranks.accelerator.device

    # The model, its data, its optimiser. Equal seeds give equal runs.
    random.seed(config.seed)
    torch.manual_seed(config.seed)
    texts = [caption.text for caption in data.train.captions]
    recipe = data.text.recipe if data.text is not None else None
    model = SupportSetModel.build(config, data.features.dim, texts, recipe, data.visual)
    loader = make_loader(config, data, model, texts, device, ranks)
    bank = make_bank(config, loader, model, device)
    sources = number_sources(config, data)
    validation = Validation(config, data, model, device) if data.validation is not None and ranks.main else None
    optimizer = torch.optim.AdamW(  # with weight_decay 0, the default, this is Adam
        model.parameter_groups(optim), lr=optim.learning_rate, weight_decay=optim.weight_decay, fused=True
    )
    # "Evaluation", or Accelerate would average the gradients: each rank has those of its shard, and they are summed.
    wrapped = accelerator.prepare_model(model, evaluation_mode=True)
    optimizer = accelerator.prepare_optimizer(optimizer)
    ranks.join(model, config.seed)
    total_steps = optim.epochs * loader.steps_per_epoch

    # Where the run starts: at its beginning, or exactly where its checkpoint is.
    checkpoint = Checkpoint(
        folder.checkpoint, model, optimizer, accelerator.scaler, bank, data.record["fingerprint"], ranks
    )
    resumes = ranks.on_rank_zero(lambda: resume and folder.checkpoint.exists())
    position = checkpoint.load() if resumes else Position()
    if position.best_epoch is not None:  # it may stay the best one: found damaged now, not after the training
        ranks.on_rank_zero(check_model, folder.path)
        ranks.on_rank_zero(folder.read_best)
    ranks.on_rank_zero(folder.create, config, data.record)  # on a resume: what may differ, such as optim.epochs
    began = time.monotonic() - position.seconds
    notes = []
    if resume and not resumes:
        notes.append(f"{folder.checkpoint}: no such checkpoint, so the run starts from step 0")
    if optim.precision == "bf16" and accelerator.mixed_precision == "no":
        notes.append("optim.precision = 'bf16': this CPU has no bf16 instructions, so the run computes in fp32")
    notes += [*data.notes, *notes_of(loader, bank), *ranks.notes(position.step, position.processes)]
    position.processes = ranks.number

    stop_message = "stopping after this step; a second signal stops at once"
    with (
        StopRequest(at_once=True, message=stop_message if ranks.main else "") as stop,
        TrainingLog(
            folder, optim, position, min(total_steps, optim.max_steps or total_steps), writes=ranks.main
        ) as log,
    ):
        for note in notes:
            log.line(note)
        if position.step:
            log.line(f"resuming after epoch {position.epoch}, step {position.step}")

        def validate(epoch: int) -> None:
            """Score the model, keep it if it is the best, save a checkpoint."""
            scores = ranks.on_rank_zero(lambda: validation.scores(model) if validation is not None else {})
            if scores:
                log.write("validation", scores)
            score = None if optim.select_by == "last" else scores[optim.select_by]
            better = score is None or position.best_score is None or score > position.best_score
            if better:
                position.best_score, position.best_epoch, position.stale_epochs = score, epoch, 0
                best = {"epoch": epoch, "step": position.step, "select_by": optim.select_by, "validation": scores}
                ranks.on_rank_zero(folder.save_model, model, best)
            else:
                position.stale_epochs += 1
            position.seconds = time.monotonic() - began
            checkpoint.save(position)
            log.end_epoch(scores, better)

        # A model that starts at the features' own embedding may be better than what training makes of it.
        if position.best_epoch is None and position.step == 0 and (config.video.init == "identity" or not optim.epochs):
            validate(0)
        loss = config.loss
        while not finished(optim, position):
            epoch, batches = position.epoch + 1, loader.planned(position.epoch)
            log.begin_epoch(epoch, left_out=loader.steps_per_epoch - batches)
            for batch in log.timed(loader.batches(position.epoch, start=position.batch)):
                lr = set_learning_rate(optimizer, optim, position.step, total_steps)
                loss = warmup_loss(config.loss, position.step, loader.steps_per_epoch)

                batch = on_device(batch, device, sources)
                losses = wrapped(batch, loss=loss, bank=bank, step=position.step)
                accelerator.backward(losses.total)
                ranks.sum_gradients(model)
                grad_norm = accelerator.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                if bank is not None and losses.codes is not None:
                    bank.add(batch.clip_ids, losses.codes, position.step, batch.sources)

                position.step += 1
                position.batch += 1
                parts = {"loss": losses.total, "contrastive": losses.contrastive, "captioning": losses.captioning}
                log.step(batch, parts | {"grad_norm": grad_norm} | losses.stats, lr)
                if ranks.any(stop.requested) or position.step == optim.max_steps:
                    break
                if position.step % optim.checkpoint_every == 0:
                    log.flush()  # first, so that no checkpoint is saved after a loss that is not finite
                    position.seconds = time.monotonic() - began
                    checkpoint.save(position)
            log.flush()
            # Also after the last batch: validation then follows when the run resumes.
            if ranks.any(stop.requested):
                position.seconds = time.monotonic() - began
                checkpoint.save(position)
                raise TrainingInterrupted(
                    f"stopped after step {position.step}; a checkpoint is saved. Resume with the same command and "
                    f"--out {folder.path} --resume"
                )

            # The epoch is over, unless max_steps ended it early: validate, keep the best model, save a checkpoint.
            if position.batch == batches:
                position.epoch, position.batch = position.epoch + 1, 0
            validate(epoch)
            if hint := collapse_hint(loss, log.epoch_mean("contrastive")):
                log.line(hint)
        ranks.on_rank_zero(write_card, folder)
    best = ranks.on_rank_zero(folder.read_best)
    split = split_to_score(config, data)
    options = f" --split {shlex.quote(split)}" if split else ""
    return TrainResult(folder.path, position.epoch, position.step, best, position.seconds, ranks.main, options)
