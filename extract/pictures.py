"""A decoded frame as an upright RGB picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

# Slicing one small picture over threads costs more than it saves, and workers have one core each. Releases of PyAV
# without the option do not thread.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}


class PictureMaker:
    """Converts frames of one video; keeps the converter between frames, which is most of its cost."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def rgb(self, frame: Any) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, turned and mirrored as the file asks. Pixels are not made square.

        Parameters
        ----------
        frame : av.VideoFrame
            In any pixel format.
        """
        picture = self._reformatter.reformat(frame, format="rgb24", **_ONE_THREAD).to_ndarray()
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return picture if matrix is None else _upright(picture, np.frombuffer(bytes(matrix), np.int32))


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
