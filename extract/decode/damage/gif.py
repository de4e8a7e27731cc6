"""Whether the image data of a GIF are whole: decoders read on behind wrong codes, and report nothing.

An image is a row of LZW codes. Each adds some pixels, and together they must be as many as the image has, before the
end code (GIF89a, appendix F). What a wrong code does to the number of pixels, or to the codes that may follow, shows;
one that means as many other pixels does not: the format has no checksum.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_WIDEST = 12  # bits of a code
_STEP = 4096  # codes at a time: most writers begin anew before so many
_HEAD = 13  # bytes before the colours of a file


def is_whole(packet: bytes) -> bool:
    """Whether a packet of a GIF, which is one image with what stands before it, has all its pixels.

    Bytes behind the end code, and a row of codes that ends without it, are no damage where the pixels are there.
    """
    at = _HEAD + colours(packet[10:11]) if packet.startswith(b"GIF") else 0
    while at < len(packet):
        kind = packet[at : at + 1]
        if kind == b"!":
            at, _ = _blocks(packet, at + 2)
        elif kind == b",":
            width, height = (int.from_bytes(packet[at + place : at + place + 2], "little") for place in (5, 7))
            at += 10 + colours(packet[at + 9 : at + 10])
            bits = packet[at] if at < len(packet) else 0
            at, data = _blocks(packet, at + 1)
            if not 1 <= bits < _WIDEST or not _fills(data, bits, width * height):
                return False
        elif kind == b";":
            return True
        elif kind != b"\0":  # some writers pad
            return False
        else:
            at += 1
    return True


def colours(flags: bytes) -> int:
    """Return the bytes of the colour table that the flags of a file or an image announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 128 else 0


def _blocks(data: bytes, at: int) -> tuple[int, bytes]:
    """Read a row of blocks, each with its length before it, up to the empty one; return what comes next, and them."""
    parts = []
    while at < len(data) and (length := data[at]):
        parts.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return at + 1, b"".join(parts)


def _fills(data: bytes, bits: int, pixels: int) -> bool:
    """Whether LZW codes up to the end code, or the end, mean so many pixels, and each means something.

    Codes begin anew at each clear code. Code k from there defines entry k - 1: what the code before it means, and
    one pixel more. So their widths are known beforehand, and their lengths are those of chains of codes.
    """
    clear, total, at, step = 1 << bits, 0, 0, _STEP
    octets = np.frombuffer(data + bytes(3), np.uint8).astype(np.int64)
    while True:
        widths, ends = _widths(bits, step)
        count = int(np.searchsorted(ends, 8 * len(data) - at, side="right"))
        first = at + ends[:count] - widths[:count]
        byte = first >> 3
        codes = octets[byte] | octets[byte + 1] << 8 | octets[byte + 2] << 16
        codes = (codes >> (first & 7)) & ((1 << widths[:count]) - 1)
        special = np.flatnonzero((codes == clear) | (codes == clear + 1))
        if not len(special) and count == step:  # a writer that keeps a full table
            step *= 4
            continue
        found = _lengths(codes[: special[0]] if len(special) else codes, clear)
        if found < 0:
            return False
        if not len(special):  # without an end code, what fills the last byte may look like codes
            least = int(np.searchsorted(first, 8 * len(data) - 8))
            return any(total + _lengths(codes[:last], clear) == pixels for last in range(least, count + 1))
        total += found
        if codes[special[0]] == clear + 1:
            return total == pixels
        at += int(ends[special[0]])


@lru_cache(maxsize=32)
def _widths(bits: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each of so many codes behind a clear code, and where each ends."""
    used = (1 << bits) + 2 + np.maximum(np.arange(count) - 1, 0)  # entries before each code, and the special ones
    widths = np.minimum(np.maximum(bits + 1, np.floor(np.log2(used)).astype(np.int64) + 1), _WIDEST)
    return widths, np.cumsum(widths)


def _lengths(codes: np.ndarray, clear: int) -> int:
    """Sum of the pixels of the codes between two clear codes; -1 if one refers to an entry that is not there yet."""
    entry = codes - clear - 2
    if (entry >= np.minimum(np.arange(len(codes)), (1 << _WIDEST) - clear - 2)).any():
        return -1
    lengths, before = np.ones(len(codes), np.int64), entry
    while (linked := before >= 0).any():
        lengths[linked] += lengths[before[linked]]
        before = np.where(linked, before[np.maximum(before, 0)], -1)
    return int(lengths.sum())
