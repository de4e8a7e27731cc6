"""The feature store: write, find, read and verify features, tables and splits. Knows neither videos nor models."""

from typing import TYPE_CHECKING

from supportset._lazy import lazy

if TYPE_CHECKING:
    from supportset.store.errors import SupportsetError, UsageError
    from supportset.store.format.card import FeatureCard, Recipe
    from supportset.store.format.dataset import Caption, Dataset, list_datasets, open_dataset, write_dataset
    from supportset.store.maintain.verify import verify as verify_features
    from supportset.store.read.aligned import AlignedFeatures
    from supportset.store.read.catalog import feature_set_path, list_feature_sets
    from supportset.store.read.catalog import find_feature_set as open_features
    from supportset.store.read.feature_set import FeatureSet
    from supportset.store.read.resident import ResidentFeatures
    from supportset.store.read.thumbnails import Thumbnails
    from supportset.store.transfer.exporting import export_features
    from supportset.store.transfer.importing import import_features
    from supportset.store.write.writer import FeatureWriter, Source

__all__ = [
    "AlignedFeatures",
    "Caption",
    "Dataset",
    "FeatureCard",
    "FeatureSet",
    "FeatureWriter",
    "Recipe",
    "ResidentFeatures",
    "Source",
    "SupportsetError",
    "Thumbnails",
    "UsageError",
    "export_features",
    "feature_set_path",
    "import_features",
    "list_datasets",
    "list_feature_sets",
    "open_dataset",
    "open_features",
    "verify_features",
    "write_dataset",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__)
