"""Training, from an opened store to a run folder, in one loop to be read from top to bottom."""

from __future__ import annotations

import random
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from supportset.train.config import Config
from supportset.train.data.source import RunData, open_run_data
from supportset.train.loop.checkpoint import Position, load_checkpoint, random_state, save_checkpoint
from supportset.train.loop.metrics_log import MetricsLog, NoLog, Progress, StepWindow, epoch_line
from supportset.train.loop.preparation import (
    Validation,
    bank_notes,
    features_note,
    make_bank,
    make_loader,
    number_sources,
    on_device,
)
from supportset.train.loop.processes import Processes, training_processes
from supportset.train.loop.schedule import EpochMeans, collapse_hint, finished, rate_factor, warmup_loss
from supportset.train.loop.stop import StopRequest, TrainingInterrupted
from supportset.train.model.model import SupportSetModel
from supportset.train.model_card import write_card
from supportset.train.run_folder import RunFolder


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to.

    Attributes
    ----------
    run : the run folder
    epochs, steps : done in all
    best : ``best.json``: the epoch the saved model is of, how it was chosen, and its validation scores
    seconds : of training, earlier sittings included
    main : false in the other processes where several trained together
    """

    run: Path
    epochs: int
    steps: int
    best: dict[str, Any]
    seconds: float
    main: bool = True


def train(
    config: Config,
    store: str | Path = "features",
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    data: RunData | None = None,
) -> TrainResult:
    """Train a model on stored features; together with the other processes where a launcher started several.

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
        The loss is no longer finite; the store or the run folder cannot be read or written; a process is lost.
    SystemExit
        Another of several processes failed first, and raises one of these.
    """
    folder = RunFolder(out if out is not None else Path("runs") / config.name)
    with training_processes(config.optim, device) as processes:
        processes.from_main(folder.check_usable, config, resume)
        if data is None:
            data = open_run_data(config, store)
        return _train(config, folder, data, processes, resume)


def _train(config: Config, folder: RunFolder, data: RunData, processes: Processes, resume: bool) -> TrainResult:
    optim, accelerator = config.optim, processes.accelerator

    random.seed(config.seed)
    torch.manual_seed(config.seed)
    texts = [caption.text for caption in data.train.captions]
    model = SupportSetModel.build(config, data.features.dim, texts, data.text.recipe if data.text is not None else None)
    loader = make_loader(config, data, model, texts, accelerator.device, processes)
    validates = data.validation is not None and processes.main
    validation = Validation(config, data, model, accelerator.device) if validates else None
    optimizer = torch.optim.AdamW(  # with weight_decay 0, the default, this is Adam
        model.parameter_groups(optim), lr=optim.learning_rate, weight_decay=optim.weight_decay, fused=True
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    # "Evaluation", or Accelerate would average gradients: here they are shares, which the loop adds up.
    wrapped = accelerator.prepare_model(model, evaluation_mode=True)
    optimizer = accelerator.prepare_optimizer(optimizer)
    processes.join(model, config.seed)
    bank = make_bank(config, loader, model, accelerator.device)
    sources = number_sources(config, data)

    position, print_of_data = Position(), data.record["fingerprint"]
    if processes.from_main(lambda: resume and folder.checkpoint.exists()):
        position = load_checkpoint(
            folder.checkpoint, model, optimizer, accelerator.scaler, print_of_data, bank, processes.rank
        )
    # On a resume: what may differ, such as the number of epochs.
    processes.from_main(folder.create, config, data.record)
    total_steps = optim.epochs * loader.steps_per_epoch
    must_be_finite = {"loss"} if optim.precision == "fp16" else {"loss", "grad_norm"}  # fp16 skips infinite gradients
    window, epoch_loss = StepWindow(), EpochMeans()
    began = time.monotonic() - position.seconds
    rate: float = 0.0
    loss = config.loss

    def checkpoint() -> None:
        position.seconds, states = time.monotonic() - began, processes.collect(random_state())
        if processes.main:
            save_checkpoint(
                folder.checkpoint, model, optimizer, accelerator.scaler, position, print_of_data, bank, states
            )

    def record() -> None:
        steps = len(window)
        if steps:
            means = window.read(must_be_finite)
            epoch_loss.add(means, steps)
            metrics.write("train", position.step, {"epoch": epoch, "lr": rate, **means})

    with (
        StopRequest() as stop,
        closing(MetricsLog(folder, position.step) if processes.main else NoLog()) as metrics,
        Progress(min(total_steps, optim.max_steps or total_steps), position.step, shown=processes.main) as progress,
    ):
        for note in (*data.notes, features_note(loader), *bank_notes(bank), *processes.notes(position)):
            progress.line(note)
        if metrics.damaged:
            progress.line(f"{folder.metrics}: {metrics.damaged} damaged lines of an earlier sitting are removed")
        position.processes = processes.number
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
                loss = warmup_loss(config.loss, position.step, loader.steps_per_epoch)

                batch = on_device(batch, accelerator.device, sources)
                losses = wrapped(batch, loss=loss, bank=bank, step=position.step)
                accelerator.backward(losses.total)
                processes.sum_gradients(model)
                grad_norm = accelerator.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
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
                if processes.any(stop.requested) or position.step == optim.max_steps:
                    break
                if position.step % optim.checkpoint_every == 0:
                    record()  # so that no checkpoint is ever saved after a loss that is not finite
                    checkpoint()
            record()
            # After the last batch too: what comes after an epoch is done when the run goes on.
            if processes.any(stop.requested):
                checkpoint()
                raise TrainingInterrupted(
                    f"stopped after step {position.step}; a checkpoint is saved. Go on with the same command and "
                    f"--out {folder.path} --resume"
                )

            if position.batch == batches:  # not so where max_steps ended it before
                position.epoch, position.batch = position.epoch + 1, 0
            scores = processes.from_main(lambda: validation.scores(model) if validation is not None else {})
            if scores:
                metrics.write("validation", position.step, {"epoch": epoch, **scores})
            score = None if optim.select_by == "last" else scores[optim.select_by]
            better = score is None or position.best_score is None or score > position.best_score
            if better:
                position.best_score, position.best_epoch, position.stale_epochs = score, epoch, 0
                best = {"epoch": epoch, "step": position.step, "select_by": optim.select_by, "validation": scores}
                processes.from_main(folder.save_model, model, best)
            else:
                position.stale_epochs += 1
            checkpoint()
            progress.line(epoch_line(epoch, optim.epochs, epoch_loss, scores, better, time.monotonic() - epoch_began))
            if hint := collapse_hint(loss, epoch_loss):
                progress.line(hint)
        processes.from_main(write_card, folder)
    best = processes.from_main(folder.read_json, "best.json")
    return TrainResult(folder.path, position.epoch, position.step, best, position.seconds, processes.main)
