"""A decoded frame as an upright RGB picture, the pixels those of ``ffmpeg -pix_fmt rgb24``."""

from __future__ import annotations

import gc
from typing import Any

import av.filter
import numpy as np

# Looking at its side data ties a frame of PyAV into a cycle of references. Only the garbage collector undoes that, and
# it counts objects, not their megabytes: so it is called whenever so many bytes of pictures may be waiting for it.
_TIED_BYTES = 64 * 2**20


class PictureMaker:
    """Converts frames of one video by FFmpeg's own ``scale`` filter; keeps it between frames, which saves its making.

    PyAV's converter would be as fast, but gives other colours for more than 8 bits, odd sizes and interlaced frames.
    """

    def __init__(self) -> None:
        self._form: tuple[Any, ...] | None = None
        self._graph: Any = None
        self._tied = 0

    def rgb(self, frame: Any) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, turned and mirrored as the file asks. Pixels are not made square.

        Parameters
        ----------
        frame : av.VideoFrame
            In any pixel format.
        """
        form = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if form != self._form:  # a video may change its form on its way
            self._form, self._graph = form, _to_rgb(frame)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        self._graph.vpush(frame)
        picture = self._graph.vpull().to_ndarray()
        self._tied += picture.nbytes
        if self._tied > _TIED_BYTES:
            gc.collect()
            self._tied = 0
        return picture if matrix is None else _upright(picture, np.frombuffer(bytes(matrix), np.int32))


def is_mirrored(frame: Any) -> bool:
    """Whether the file asks for a mirror image of the frame."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, c, d = np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]].astype(float)
    return bool(a * d - b * c < 0)


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
