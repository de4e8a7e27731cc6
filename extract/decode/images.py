"""Still images: a clip of one frame."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import av.error
import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from supportset.extract.outcome import DecodeError, Outcome
from supportset.store.format.status import DAMAGED, MISSING, UNREADABLE

_JPEG = b"\xff\xd8\xff"
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_MAGIC = (_JPEG, b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", *_JPEG2000)
_HEIF = {b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1"}  # brands of pictures; sequences are videos
_STREAMS = {".mjpeg", ".mjpg"}  # many JPEGs in a row: a video
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WRONG_BYTES = (OSError, SyntaxError, ValueError)  # what Pillow raises where bytes are missing or wrong

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**26  # long texts are no reason to refuse a picture
with suppress(ImportError):
    import pi_heif

    pi_heif.register_heif_opener()


def is_image(path: Path) -> bool:
    """Whether the first bytes are those of a JPEG, JPEG 2000, PNG, BMP, TIFF, WebP, HEIC or AVIF; the name is ignored.

    An animated GIF is a video; so is what cannot be opened (the video reader says why).
    """
    head = _head(path)
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    heif = head[4:8] == b"ftyp" and head[8:12] in _HEIF
    return (head.startswith(_MAGIC) or webp or heif) and path.suffix.lower() not in _STREAMS


def read_image(path: Path) -> tuple[np.ndarray, Outcome]:
    """Read an image upright, as (H, W, 3) uint8 RGB.

    The EXIF orientation is applied; grey values of more than 8 bits are scaled to 8; of an animation the first picture
    is taken.

    Returns
    -------
    picture : (H, W, 3) uint8
    outcome : Outcome
        ``ok``, or ``damaged`` where a part of the picture is missing or wrong.

    Raises
    ------
    DecodeError
        ``missing``, ``unreadable``, or ``damaged`` where nothing of the picture can be read.
    """
    try:
        try:
            picture, outcome = _read(path), Outcome()
        except UnidentifiedImageError:
            raise
        except _WRONG_BYTES as error:
            with _truncated_allowed():
                picture, outcome = _read(path), Outcome(DAMAGED, f"the image is damaged ({error})")
    except FileNotFoundError as error:
        raise DecodeError(MISSING, "the file is not there any more") from error
    except UnidentifiedImageError as error:
        reason = (
            "HEIC needs the package pi-heif" if _head(path)[4:8] == b"ftyp" else "not an image that Pillow can read"
        )
        raise DecodeError(UNREADABLE, reason) from error
    except Image.DecompressionBombError as error:
        raise DecodeError(UNREADABLE, str(error)) from error
    except _WRONG_BYTES as error:
        raise DecodeError(DAMAGED, f"the image is damaged ({error})") from error
    if not outcome.message and _head(path).startswith(_JPEG) and _is_broken_jpeg(path):
        outcome = Outcome(DAMAGED, "the image is damaged (its compressed data are not valid)")
    return picture, outcome


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(12)
    except OSError:
        return b""


def _read(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures up to twice Pillow's limit, and of odd metadata
        with Image.open(path) as image:
            image.load()
            upright: Image.Image = image
            with suppress(Exception):  # EXIF that cannot be read states no orientation
                if (turn := _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))) is not None:
                    upright = image.transpose(turn)
            if upright.mode[0] in "IF":
                return np.repeat(_to_bytes(np.asarray(upright), upright.mode)[:, :, None], 3, axis=2)
            return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _to_bytes(grey: np.ndarray, mode: str) -> np.ndarray:
    """Scale grey values to 8 bits: 16-bit ones by their type, others by the smallest usual range that holds them."""
    values = np.nan_to_num(grey.astype(np.float64))
    if mode.startswith("I;16"):
        return (grey >> 8).astype(np.uint8)
    most = values.max(initial=0)
    whole = mode[0] == "I"
    ranges = [255, 2**16 - 1, 2**31 - 1, 2**32 - 1] if whole else [1, 255, 2**16 - 1, most]
    full = next((full for full in ranges if most <= full), most)
    return np.clip(np.rint(values * (255 / full) if full != 255 else values), 0, 255).astype(np.uint8)


@contextmanager
def _truncated_allowed() -> Iterator[None]:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _is_broken_jpeg(path: Path) -> bool:
    """Whether FFmpeg finds errors in the compressed data; Pillow reads past them silently."""
    data, at = path.read_bytes(), 2
    kept = [data[:2]]
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:  # up to the first scan; metadata do not matter
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not 0xE0 <= data[at + 1] <= 0xEF or data[at + 1] == 0xEE:  # Adobe's states the colours
            kept.append(data[at:end])
        at = end
    context = av.CodecContext.create("mjpeg", "r")
    context.options = {"err_detect": "explode"}
    try:
        context.decode(av.Packet(b"".join([*kept, data[at:]])))
        context.decode(None)
    except av.error.InvalidDataError:
        return True
    except av.error.FFmpegError:
        return False  # a kind that this decoder does not know
    return False
