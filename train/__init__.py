"""The paper's method on stored features: configuration, model, training, evaluation of runs, ablations."""

from typing import TYPE_CHECKING

from supportset._lazy import lazy

if TYPE_CHECKING:
    from supportset.train.ablation.grid import load_grid
    from supportset.train.ablation.study import run_study
    from supportset.train.caption import caption as caption_clips
    from supportset.train.config import Config, load_config
    from supportset.train.evaluate import evaluate as evaluate_run
    from supportset.train.loop.training import TrainResult
    from supportset.train.loop.training import train as train_model
    from supportset.train.model.model import SupportSetModel
    from supportset.train.run_folder import RunFolder

__all__ = [
    "Config",
    "RunFolder",
    "SupportSetModel",
    "TrainResult",
    "caption_clips",
    "evaluate_run",
    "load_config",
    "load_grid",
    "run_study",
    "train_model",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__)
