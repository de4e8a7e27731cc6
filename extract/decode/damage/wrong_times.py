"""Times that cannot be right: damaged tables and lost fragments of MP4 files, which demuxers read without an error.

Each packet has a time for decoding and one for showing. In MP4 the first follow one another without a gap, and a frame
is shown soon after it is decoded. Where they are equally far apart, so are the times of showing. What contradicts that
is damage.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_REORDERED = 32  # frames: no decoder holds as many back
_MOST = 10**6  # frames that one gap may have lost; a wrong time can make any gap


class TimeFaults(NamedTuple):
    """What is wrong with the times of N packets.

    Attributes
    ----------
    wrong : (N,) bool
        Packets whose time of showing cannot be right.
    gone : (G,) int64
        About when frames would have been shown that are lost, or have a wrong time; ascending.
    stretched : bool
        The times do not add up to the length that the file states.
    """

    wrong: np.ndarray
    gone: np.ndarray
    stretched: bool


def find_faults(
    shown: np.ndarray, decoded: np.ndarray, lengths: np.ndarray, nominal: int, stated: int | None, *, fragmented: bool
) -> TimeFaults:
    """Compare the times of an MP4 track's packets, in the order of decoding, all in ticks.

    Parameters
    ----------
    shown : (N,) int64
        When each packet's frame is shown.
    decoded : (N,) int64
        When it is decoded.
    lengths : (N,) int64
        How long.
    nominal : int
        Length of a frame at the stated rate.
    stated : int or None
        Length of all packets together, as the file states it; None where it does not.
    fragmented : bool
        Whether the file is written in fragments, of which some may be lost.
    """
    bound = np.full(len(decoded), int(decoded[-1]) + _REORDERED * nominal)
    bound[:-_REORDERED] = decoded[_REORDERED:]
    wrong = (shown < decoded) | (shown > bound)
    if (even := _even(decoded)) and not wrong.all():
        phases, counts = np.unique(shown[~wrong] % even, return_counts=True)
        wrong |= shown % even != phases[np.argmax(counts)]
    gone = [decoded[wrong]] if not even or wrong.all() else [_holes(shown[~wrong], even, len(shown), int(decoded[-1]))]
    if fragmented:
        ends = decoded[:-1] + lengths[:-1]
        for place in np.flatnonzero(decoded[1:] - ends > 1.5 * nominal):
            count = min(int(decoded[place + 1] - ends[place]) // nominal, _MOST)
            gone.append(ends[place] + nominal * np.arange(count, dtype=np.int64))
    total = int(decoded[-1] - decoded[0] + lengths[-1])
    stretched = stated is not None and abs(stated - total) > max(3 * nominal, stated // 50)
    return TimeFaults(wrong, np.sort(np.concatenate(gone)), stretched)


def _even(decoded: np.ndarray) -> int:
    """Ticks from one packet to the next where they are the same for all, else 0."""
    steps = np.diff(decoded)
    return max(0, int(steps[0])) if len(steps) >= _REORDERED and (steps == steps[0]).all() else 0


def _holes(shown: np.ndarray, even: int, packets: int, decoded_last: int) -> np.ndarray:
    """When frames should be shown so that there is one at each of so many equal steps, and none is.

    What would be decoded after the last packet is not lost: a film that was cut without encoding may end there.
    """
    first = int(shown.min())
    taken = np.unique((shown - first) // even)
    last = min(int(taken[-1]), packets + _REORDERED)
    holes = np.setdiff1d(np.arange(last + 1), taken)
    before = max(0, packets - len(taken) - len(holes))  # two at one time and no hole: one came before the first
    times = first + even * np.concatenate([np.arange(-before, 0), holes])
    return times[times <= decoded_last]
