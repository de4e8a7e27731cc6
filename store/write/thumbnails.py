"""Writing of thumbnails: the pictures of clips, committed as features are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supportset.store.files import StorePath
from supportset.store.format.card import FeatureCard
from supportset.store.format.registry import DEFAULT_FORMAT
from supportset.store.format.status import ERROR, OK
from supportset.store.format.thumbnails import Picture, thumbnails_path, thumbnails_recipe, to_rows
from supportset.store.write.writer import FeatureWriter, Source

NO_PICTURE = "no frame could be encoded as JPEG"  # message of a clip without thumbnails whose video is intact
_BYTES_PER_SHARD = 64 * 2**20  # JPEGs of some 300 clips; bounds the memory of a writer beside that of features


class ThumbnailWriter(FeatureWriter):
    """Writer of one process to the thumbnails of a feature set; see :class:`FeatureWriter`.

    Parameters
    ----------
    feature_set : str or StorePath
        Folder of the feature set.
    sampling : dict
        Of the feature set.
    transform : dict
        Size and quality of the pictures.
    provenance : dict
        Of the card.
    shard_format, clips_per_shard, seconds_per_shard
        As for :class:`FeatureWriter`.
    """

    def __init__(
        self,
        feature_set: str | StorePath,
        sampling: dict[str, Any],
        transform: dict[str, Any],
        provenance: dict[str, Any],
        *,
        shard_format: str = DEFAULT_FORMAT,
        clips_per_shard: int = 500,
        seconds_per_shard: float = 300.0,
    ) -> None:
        super().__init__(
            thumbnails_path(feature_set),
            FeatureCard(thumbnails_recipe(sampling, transform), provenance),
            shard_format=shard_format,
            clips_per_shard=clips_per_shard,
            seconds_per_shard=seconds_per_shard,
            bytes_per_shard=_BYTES_PER_SHARD,
        )

    def record(
        self,
        clip_id: str,
        pictures: Sequence[Picture],
        *,
        source: Source | None = None,
        seconds: float = 0.0,
        status: str = OK,
        message: str = "",
    ) -> None:
        """Add a clip's pictures in the order of their steps, or that it has none. Parameters as of :meth:`add`."""
        about: dict[str, Any] = {"source": source, "seconds": seconds}
        if not pictures:
            failed = (ERROR, NO_PICTURE) if status == OK else (status, message)
            self.fail(clip_id, *failed, **about)
            return
        values, timestamps = to_rows(pictures)
        self.add(clip_id, values, timestamps, status=status, message=message, **about)
