"""Video-text retrieval on precomputed features: an open implementation of support-set bottlenecks.

Every name below is imported when it is first used, so ``import supportset`` loads neither torch nor numpy::

    import supportset

    features = supportset.open_features("features", "msrvtt/open_clip-ViT-B-32")
    supportset.train_model(supportset.load_config("msrvtt"), "features", "runs/msrvtt")

    run = supportset.open_run("runs/msrvtt")
    run.evaluate("features")
    texts = run.encode_text(["a dog catches a frisbee"])
    hits = run.open_gallery("features").search(["a dog catches a frisbee"])

    untrained = supportset.open_zero_shot("msrvtt/open_clip-ViT-B-32", "features")    # the encoder's own text tower
    untrained.evaluate(protocol="1k-A")

A function has a verb and its object as name (``train_model``), because the verbs alone name packages: ``store``,
``extract``, ``train``, ``evaluate``, ``search``. Each package lists its own public names.
"""

from typing import TYPE_CHECKING

from supportset._lazy import lazy

__version__ = "0.2.0"

if TYPE_CHECKING:
    from supportset import evaluate, extract, search, store, train
    from supportset.extract.run import extract as extract_features
    from supportset.search.run import Run, open_run
    from supportset.search.run import search as search_clips
    from supportset.search.zero_shot import ZeroShot, open_zero_shot
    from supportset.store.errors import SupportsetError, UsageError
    from supportset.store.format.dataset import Dataset, open_dataset
    from supportset.store.read.catalog import find_feature_set as open_features
    from supportset.store.read.feature_set import FeatureSet
    from supportset.train.config import Config, load_config
    from supportset.train.evaluate import evaluate as evaluate_run
    from supportset.train.loop.training import train as train_model

__all__ = [
    "Config",
    "Dataset",
    "FeatureSet",
    "Run",
    "SupportsetError",
    "UsageError",
    "ZeroShot",
    "__version__",
    "evaluate",
    "evaluate_run",
    "extract",
    "extract_features",
    "load_config",
    "open_dataset",
    "open_features",
    "open_run",
    "open_zero_shot",
    "search",
    "search_clips",
    "store",
    "train",
    "train_model",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__)
