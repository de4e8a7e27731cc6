"""An uploaded file as a query: what it is, whether it is small enough, and a small picture of it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.images import is_image, read_image
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.streams import open_video
from supportset.store.errors import UsageError

_PREVIEW_SIDE = 240  # pixels


def prepare_upload(source: str, pixels: int, seconds: float) -> dict[str, Any]:
    """Check a file by its contents, and make its preview.

    Parameters
    ----------
    source : str
    pixels : int
        Of one picture, at most.
    seconds : float
        Of a video, at most.

    Returns
    -------
    dict
        ``kind`` (``image`` or ``video``), and ``preview``: a JPEG in base64.

    Raises
    ------
    UsageError
        It is too large.
    DecodeError
        It is no image or video, or cannot be decoded.
    """
    path = Path(source)
    if is_image(path):
        try:
            with Image.open(path) as image:
                _check(*image.size, pixels)
        except Image.DecompressionBombError as error:
            raise UsageError(str(error)) from None
        kind, picture = "image", read_image(path)[0]
    else:
        with open_video(path) as (container, stream):
            _check(stream.codec_context.width, stream.codec_context.height, pixels)
            if container.duration is not None and container.duration / 1e6 > seconds:
                raise UsageError(f"the video is longer than {seconds:g} s: upload a part of it")
        kind, picture = "video", next(iter(decode_clip(path, sampling=Sampling(frames=1)))).frames[0]
    small = Image.fromarray(picture)
    small.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=80)
    return {"kind": kind, "preview": base64.b64encode(written.getvalue()).decode()}


def _check(width: int, height: int, pixels: int) -> None:
    if width * height > pixels:
        raise UsageError(f"the picture has {width:,} x {height:,} pixels: more than {pixels:,} are refused")
