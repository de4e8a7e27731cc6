"""The first frames of a stream, decoded while its packets are read: what the packets state, and may state wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np

from supportset.extract.decode.pictures import lasting_matrix
from supportset.extract.decode.timeline import decode_packet

_FRAMES, _REORDERED = 3, 8  # enough to compare; where frames are reordered, also to see one that is out of order
_PATIENCE = 600  # packets without a frame: no group of pictures is longer

# Decoders that give nothing before a key frame, and whose key frames reset all state.
_STRICT = {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9", "prores", "dnxhd"}
# Key frames of these reset all state, too. Of others they do not, or come without it: palettes and tables are in the
# first packet only (QuickTime, MJPEG), and a container may mark every frame as one (H.263).
_RESET = _STRICT | {"mpeg4"}


class Beginning:
    """Decodes the first packets of a stream, until enough is known.

    Parameters
    ----------
    stream : av.VideoStream

    Attributes
    ----------
    matrix : (9,) int32 or None
        Display matrix of the first frame, where it holds for all.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, context = stream, stream.codec_context
        self._strict, self._resets = context.name in _STRICT, context.name in _RESET
        self._enough = _REORDERED if context.has_b_frames else _FRAMES
        self._packets: list[tuple[int, bool]] = []  # time, and whether it is marked as a key frame
        self._frames: list[tuple[int, bool]] = []
        self.matrix: np.ndarray | None = None

    def packet(self, packet: Any) -> None:
        """Take the next packet of the stream."""
        if len(self._packets) >= _PATIENCE or (len(self._frames) >= self._enough and self.shown is not None):
            return
        if packet.size and packet.pts is not None and not packet.is_discard:
            self._packets.append((packet.pts, packet.is_keyframe))
        for frame in decode_packet(packet) or ():
            if not self._frames:
                self.matrix = lasting_matrix(self._stream, frame)
            if frame.pts is not None:
                self._frames.append((frame.pts, bool(frame.key_frame)))

    @property
    def shown(self) -> int | None:
        """When the first frame is shown that can be decoded; None where no frame is shown, or not yet.

        Some decoders give grey frames before the first key frame; those are not shown.
        """
        if not self._packets or not self._frames:
            return None
        if self._strict or self._packets[0][1]:
            return self._frames[0][0]
        return next((tick for tick, key in self._frames if key), None)

    @property
    def undecodable(self) -> int | None:
        """Before this time no frame can be shown, as the stream begins inside a group of pictures; mostly None.

        A recording begins between two key frames, or with pictures that refer to frames before its first key frame.
        """
        if self.shown is None:
            return None
        first, key = self._packets[0]
        return self.shown if not key or self.shown == first else None

    @property
    def out_of_order(self) -> bool:
        """Whether frames are shown in another order than their times say: a container without presentation times."""
        ticks = [tick for tick, _ in self._frames]
        return ticks != sorted(ticks)

    @property
    def seekable(self) -> bool:
        """Whether decoding from a key frame gives what decoding from the start gives."""
        marked = {tick for tick, key in self._packets if key}
        return self._resets and all(key or tick not in marked for tick, key in self._frames)
