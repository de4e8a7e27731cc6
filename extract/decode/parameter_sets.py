"""Parameter sets of H.264 and HEVC that come once, with the first packets: a seek past them leaves a decoder without.

MP4 and Matroska keep the sets in the stream's header. A file joined from others may have further sets in its packets,
under the same numbers.
"""

from __future__ import annotations

from typing import Any

_SETS = {"h264": {7, 8}, "hevc": {32, 33, 34}}  # NAL units: SPS, PPS; VPS, SPS, PPS
_FIRST_SLICES = {"h264": range(1, 6), "hevc": range(32)}


class ParameterSets:
    """Follows the parameter sets of a stream from key frame to key frame.

    Parameters
    ----------
    stream : av.VideoStream
    """

    def __init__(self, stream: Any) -> None:
        self._codec = stream.codec_context.name
        self._header = bytes(stream.codec_context.extradata or b"")
        place = {"h264": 4, "hevc": 21}.get(self._codec, 0)
        stated = len(self._header) > place > 0 and self._header[0] == 1  # else start codes: the sets are in the packets
        self._length = (self._header[place] & 3) + 1 if stated else 0
        self._foreign = False

    def are_known_at(self, packet: Any) -> bool:
        """Whether a decoder that begins with this key frame has all sets it needs."""
        if not self._length:
            return True
        sets = [bytes(unit) for unit in self._units(memoryview(packet))]
        self._foreign |= any(unit not in self._header for unit in sets)
        return bool(sets) or not self._foreign

    def _units(self, data: memoryview) -> Any:
        """Yield the parameter sets that are before the first slice."""
        at = 0
        while at + self._length < len(data):
            size = int.from_bytes(data[at : at + self._length], "big")
            at += self._length
            kind = data[at] & 31 if self._codec == "h264" else data[at] >> 1 & 63
            if kind in _FIRST_SLICES[self._codec]:
                return
            if kind in _SETS[self._codec]:
                yield data[at : at + size]
            at += size
