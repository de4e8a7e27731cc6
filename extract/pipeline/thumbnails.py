"""The thumbnails of a feature set, as extraction writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from supportset.extract.decode.decoders import PYAV, describe_decoder
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import transform_json
from supportset.extract.pipeline.recipe import library_versions
from supportset.store.files import StorePath
from supportset.store.write.thumbnails import ThumbnailWriter


def open_writer(path: StorePath, sampling: Sampling, most: int, decoder: str = PYAV, **shards: Any) -> ThumbnailWriter:
    """Open a writer of a feature set's thumbnails.

    Parameters
    ----------
    path : StorePath
        Folder of the feature set.
    sampling : Sampling
        Of the features, with the backbone's window.
    most : int
        Most pictures of a clip.
    decoder : str
        A name of :mod:`supportset.extract.decode.decoders`.
    shards
        ``shard_format``, ``clips_per_shard`` and ``seconds_per_shard``.
    """
    provenance = {
        "libraries": library_versions(("av", "pillow", "numpy")),
        "decoder": describe_decoder(decoder),
        "pictures": most,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return ThumbnailWriter(path, sampling.to_json(), transform_json(), provenance, **shards)
