"""Still images: a clip of one frame."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from supportset.extract.outcome import DecodeError
from supportset.store.format.status import DAMAGED, MISSING, UNREADABLE

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
_STREAMS = {".mjpeg", ".mjpg"}  # many JPEGs in a row: a video


def is_image(path: Path) -> bool:
    """Whether the file's first bytes are those of a JPEG, PNG, BMP, TIFF or WebP; its name does not count.

    An animated GIF is a video; so is what cannot be opened (the video reader says why).
    """
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return (head.startswith(_MAGIC) or webp) and path.suffix.lower() not in _STREAMS


def read_image(path: Path) -> np.ndarray:
    """Read an image upright, as (H, W, 3) uint8 RGB.

    The EXIF orientation is applied; 16-bit grey is scaled to 8; of an animation the first picture is taken.

    Raises
    ------
    DecodeError
        ``missing``, ``unreadable``, or ``damaged`` for a file that is cut.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise DecodeError(MISSING, "the file is not there any more") from error
    except UnidentifiedImageError as error:
        raise DecodeError(UNREADABLE, "not an image that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError(UNREADABLE, str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to say that bytes are missing or wrong
        raise DecodeError(DAMAGED, f"the image is damaged ({error})") from error
    if upright.mode.startswith("I"):
        grey = np.clip(np.asarray(upright).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(upright.convert("RGB"))
