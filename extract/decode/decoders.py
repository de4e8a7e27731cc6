"""The decoders by name: the libraries that turn packets into pictures.

The library does not choose the frames: ``frame_index.read_index`` and the sampling rule give frame numbers, and any
library gets their pixels.

``pyav`` is the default and the meaning of ``auto``: it brings its FFmpeg, reports which frames are damaged, and no
other was measured to be faster. ``torchcodec`` decodes on the CPU to the same pixels: equal under test with the same
FFmpeg, else within ``torchcodec_frames.TOLERANCE``. So a card's provenance names the decoder, and no feature set's
name depends on it. torchcodec does not report corrupt data inside a stream. PyAV decodes files that are cut, or that
torchcodec refuses. ``nvdec`` is torchcodec on a CUDA device, and has not been run so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from supportset.extract.decode.clip_health import ClipHealth
from supportset.extract.decode.frame_index import FrameIndex, Heartbeat
from supportset.extract.decode.frame_runs import wanted_pictures
from supportset.store.errors import UsageError

AUTO, PYAV, TORCHCODEC, NVDEC = "auto", "pyav", "torchcodec", "nvdec"
DECODERS = (AUTO, PYAV, TORCHCODEC, NVDEC)

PictureSource = Callable[[Path, FrameIndex, list[int], ClipHealth, Heartbeat], Iterator[tuple[int, np.ndarray]]]


def pick_decoder(name: str) -> str:
    """Turn a name from the command line into a decoder that works on this machine.

    Parameters
    ----------
    name : str
        ``auto``, ``pyav``, ``torchcodec`` or ``nvdec``.

    Raises
    ------
    UsageError
        There is no such decoder, or it does not work on this machine.
    """
    if name not in DECODERS:
        raise UsageError(f"decoder {name!r} is not one of {', '.join(DECODERS)}")
    if name in (AUTO, PYAV):
        return PYAV
    if find_spec("torchcodec") is None:
        raise UsageError(f"decoder {name!r} needs torchcodec: pip install 'supportset[torchcodec]', or use pyav")
    from supportset.extract.decode.torchcodec_frames import why_not

    if reason := why_not(_device(name)):
        raise UsageError(f"decoder {name!r} does not work here ({reason}); use pyav")
    return name


def decoder_beside(name: str, device: str) -> str:
    """Let NVDEC decode on the CUDA device that the model is on, if it is on one.

    >>> decoder_beside("nvdec", "cuda:1"), decoder_beside("nvdec", "cpu"), decoder_beside("pyav", "cuda:1")
    ('nvdec:1', 'nvdec', 'pyav')
    """
    kind, _, number = device.partition(":")
    return f"{name}:{number}" if name == NVDEC and kind == "cuda" and number else name


def describe_decoder(name: str) -> dict[str, Any]:
    """Name the decoder and its versions, for a card's provenance."""
    import av

    described: dict[str, Any] = {
        "name": name,
        "pyav": av.__version__,
        "ffmpeg": {library: ".".join(map(str, numbers)) for library, numbers in av.library_versions.items()},
    }
    if name != PYAV:
        from importlib.metadata import version

        described["torchcodec"] = version("torchcodec")
    return described


def picture_source(name: str) -> PictureSource:
    """Return the function of a decoder that does what ``frame_runs.wanted_pictures`` does."""
    if name == PYAV:
        return wanted_pictures
    from supportset.extract.decode import torchcodec_frames

    return partial(torchcodec_frames.wanted_pictures, device=_device(name))


def _device(name: str) -> str:
    return name.replace(NVDEC, "cuda") if name.startswith(NVDEC) else "cpu"
