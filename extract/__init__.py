"""From annotations and videos to features: dataset readers, decoding, frozen encoders, the run."""

from typing import TYPE_CHECKING

from supportset._lazy import lazy

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone
    from supportset.extract.backbones.registry import load_backbone
    from supportset.extract.decode.sampling import Sampling
    from supportset.extract.options import Execution, Selection
    from supportset.extract.readers import Annotations, Reader, get_reader
    from supportset.extract.readers.annotate import AnnotatedDataset, read_dataset
    from supportset.extract.run import extract as extract_features
    from supportset.extract.text.encoders.base import TextEncoder
    from supportset.extract.text.encoders.registry import load_text_encoder
    from supportset.extract.text.run import extract_text as extract_text_features
    from supportset.extract.thumbnails import make_thumbnails

__all__ = [
    "AnnotatedDataset",
    "Annotations",
    "Backbone",
    "Execution",
    "Reader",
    "Sampling",
    "Selection",
    "TextEncoder",
    "extract_features",
    "extract_text_features",
    "get_reader",
    "load_backbone",
    "load_text_encoder",
    "make_thumbnails",
    "read_dataset",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__)
