"""A decoded frame as an upright RGB picture, the pixels those of ``ffmpeg -pix_fmt rgb24``."""

from __future__ import annotations

import gc
from typing import Any

import av.error
import av.filter
import numpy as np
from av.sidedata.sidedata import Type

from supportset.extract.outcome import DecodeError
from supportset.store.format.status import UNREADABLE

# Looking at its side data ties a frame of PyAV into a cycle of references. Only the garbage collector undoes that, and
# it counts objects, not their megabytes: so it is called after so many bytes of pictures.
_TIED_BYTES = 64 * 2**20
_PHOTOGRAPHS = {"mjpeg", "png", "webp", "tiff", "jpeg2000"}  # each frame may have EXIF with an orientation


def _unknown_type(kinds: type[Any], value: int) -> Any:
    """Name a type of side data that PyAV does not know: without a name it cannot list any of a frame (EXIF is 31)."""
    kind = object.__new__(kinds)
    kind._name_, kind._value_ = f"UNKNOWN_{value}", value
    return kind


Type._missing_ = classmethod(_unknown_type)  # type: ignore[assignment, method-assign]


def display_matrix(frame: Any) -> np.ndarray | None:
    """Return the nine numbers by which a frame asks to be turned or mirrored."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32)


def lasting_matrix(stream: Any, first: Any) -> np.ndarray | None:
    """Return the display matrix of a stream's first frame, which holds for frames without one."""
    return None if stream.codec_context.name in _PHOTOGRAPHS else display_matrix(first)


class PictureMaker:
    """Converts frames of one video by FFmpeg's own ``scale`` filter; keeps it between frames, which saves its making.

    PyAV's converter would be as fast, but gives other colours for more than 8 bits, odd sizes and interlaced frames.

    Parameters
    ----------
    matrix : (9,) int32, optional
        Display matrix of frames without one: a stream may state it only once, with its first frame.
    """

    def __init__(self, matrix: np.ndarray | None = None) -> None:
        self._matrix = matrix
        self._form: tuple[Any, ...] | None = None
        self._graph: Any = None
        self._tied = 0

    def rgb(self, frame: Any) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, turned and mirrored as the file asks. Pixels are not made square.

        Parameters
        ----------
        frame : av.VideoFrame
            In any pixel format.

        Raises
        ------
        DecodeError
            ``unreadable`` for a colour matrix that FFmpeg cannot convert to RGB.
        """
        form = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if form != self._form:  # a video may change its form on its way
            self._form, self._graph = form, _to_rgb(frame)
        matrix = display_matrix(frame)
        matrix = self._matrix if matrix is None else matrix
        try:
            self._graph.vpush(frame)
            picture = self._graph.vpull().to_ndarray()
        except av.error.OSError as error:
            name = _MATRICES.get(int(frame.colorspace), f"number {int(frame.colorspace)}")
            raise DecodeError(UNREADABLE, f"FFmpeg cannot convert its colour matrix ({name}) to RGB") from error
        self._tied += picture.nbytes
        if self._tied > _TIED_BYTES:
            gc.collect()
            self._tied = 0
        return picture if matrix is None else _upright(picture, matrix)


_MATRICES = {8: "YCgCo", 10: "BT.2020 constant luminance", 13: "chromaticity-derived", 14: "ICtCp", 15: "IPT-C2"}


def _to_rgb(frame: Any) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1  # slicing one small picture over threads costs more than it saves, and workers have one core each
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or 1
    )
    graph.link_nodes(source, graph.add("scale"), graph.add("format", "rgb24"), graph.add("buffersink")).configure()
    return graph


def _upright(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a display matrix (a b u, c d v, x y w: row vectors) that turns by quarters or mirrors.

    x' = a x + c y and y' = b x + d y. Free angles are left alone, as ffmpeg does without a rotate filter.
    """
    straight, turned = matrix[[0, 4]].astype(float), matrix[[1, 3]].astype(float)
    (a, d), (b, c) = straight, turned
    small = 0.02 * np.abs([straight, turned]).max()  # within a degree, as ffmpeg
    if max(abs(b), abs(c)) <= small:
        across, down = a, d
    elif max(abs(a), abs(d)) <= small:
        picture, across, down = picture.swapaxes(0, 1), c, b
    else:
        return picture
    return np.ascontiguousarray(picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])
