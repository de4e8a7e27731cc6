"""Decode clips: from a file to the frames that the sampling rule picks, and no others, in bounded memory.

:mod:`supportset.extract.decode.sampling` states which moments are picked. A picture is defined as follows.

*Stream.* Of several video streams the film is the one that moves, then the one marked as default, then the largest, as
with ``ffmpeg``. Contents decide what a file is, not its name.

*Pixels.* Frames are converted to 8-bit RGB by FFmpeg's ``scale`` filter with its defaults, at the coded size: the
pixels of ``ffmpeg -pix_fmt rgb24``. Non-square pixels are kept: the picture is not stretched to its shape on a screen,
as ``ffmpeg`` does not without a filter. Rotation and mirroring that the container or the stream states, and
crop that the stream states, are applied, as ``ffmpeg`` does. Frames of more than 2^26 pixels are refused.

*Time.* Time zero is when the first frame is shown that can be decoded. Containers without presentation times (AVI, raw
streams) give frames in the decoder's order, at the stated rate.

*Interlaced video* is not deinterlaced, as with ``ffmpeg`` without a filter: a frame holds both its fields.

*Animations.* A GIF is a video. Of an animated PNG, WebP or TIFF the first picture counts, as of a still image.

*Several clips of one file* are decoded in one pass. Each gets the pictures, and counts the damage, that it would get
and count alone.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from supportset.extract.decode.clip_health import ClipHealth
from supportset.extract.decode.clip_plan import ClipAssembly, ClipPlan, Step
from supportset.extract.decode.decoders import PYAV, picture_source
from supportset.extract.decode.frame_index import FrameIndex, Heartbeat, read_index
from supportset.extract.decode.images import is_image, read_image
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import encode
from supportset.extract.outcome import DecodeError, Outcome
from supportset.store.format.status import DAMAGED, OK, UNREADABLE

Picture = Callable[[np.ndarray], np.ndarray]
Part = tuple[float | None, float | None]
_IMAGE_SECONDS = Fraction(1)  # a still image has no duration: its one step is given a second

__all__ = ["DecodeError", "Outcome", "Step", "decode_clip", "decode_clips"]


def decode_clip(
    path: Path | str,
    start_s: float | None = None,
    end_s: float | None = None,
    sampling: Sampling | None = None,
    *,
    transform: Picture | None = None,
    heartbeat: Heartbeat | None = None,
    decoder: str = PYAV,
) -> Generator[Step, None, str]:
    """Yield the steps of a clip in order; see :func:`decode_clips`.

    Parameters
    ----------
    path : Path or str
    start_s : float, optional
        Where the clip begins, in seconds from the file's first frame; default: there.
    end_s : float, optional
        Where the clip ends, in the same seconds; default: at the end of the last frame.
    sampling : Sampling, optional
    transform : callable, optional
    heartbeat : callable, optional
    decoder : str

    Yields
    ------
    Step

    Returns
    -------
    str
        A note on a clip that is complete but not as requested (the video ends before it), mostly empty.

    Raises
    ------
    DecodeError
        ``missing``, ``unreadable``, ``no_video`` or ``too_short`` before the first step. ``damaged`` **after** the last
        step: all steps have been yielded, and the caller keeps or drops them. The frame before it replaces a lost one.
    """
    note = ""
    for _, item in decode_clips(
        path, [(start_s, end_s)], sampling, transform=transform, heartbeat=heartbeat, decoder=decoder
    ):
        if isinstance(item, Step):
            yield item
        elif item.status == OK:
            note = item.message
        else:
            raise DecodeError(**vars(item))
    return note


def decode_clips(
    path: Path | str,
    parts: Sequence[Part],
    sampling: Sampling | None = None,
    *,
    transform: Picture | None = None,
    heartbeat: Heartbeat | None = None,
    opened: Callable[[int], None] | None = None,
    decoder: str = PYAV,
    thumbnails: int = 0,
    thumbnails_only: bool = False,
) -> Iterator[tuple[int, Step | Outcome]]:
    """Decode several clips of one file in one pass over it; they may overlap, in any order.

    Memory does not grow with the length of the video: at most one window of (transformed) frames is held for each clip
    that is being put together.

    Parameters
    ----------
    path : Path or str
        A video, or an image (a clip of one frame).
    parts : sequence of (start_s, end_s)
        Each clip's part of the file, in seconds from its first frame; None: the file's start or end.
    sampling : Sampling, optional
        Default: one frame a second.
    transform : callable, optional
        Applied to each picked (H, W, 3) uint8 RGB frame, once.
    heartbeat : callable, optional
        Called often during the work.
    opened : callable, optional
        Called with a clip's place in ``parts`` just before the first packet that the clip needs is decoded.
    decoder : str
        A name of :mod:`supportset.extract.decode.decoders`.
    thumbnails : int
        Most steps of a clip that get a thumbnail, evenly spread.
    thumbnails_only : bool
        Whether only these steps are decoded, each of the one frame that its thumbnail shows.

    Yields
    ------
    place : int
        Of the clip in ``parts``.
    item : Step or Outcome
        Steps of a clip in order, those of different clips mixed; then its outcome, once. A ``damaged`` clip has given
        all its steps; the frame before it replaces a lost one.
    """
    path, sampling = Path(path), sampling or Sampling()
    heartbeat, transform, opened = heartbeat or _nothing, transform or _as_is, opened or _ignore
    left = set(range(len(parts)))
    try:
        _refuse_endless(path)
        if is_image(path):
            image, outcome = read_image(path)
            picture, small = transform(image), encode(image) if thumbnails else b""
            for place in range(len(parts)):
                yield place, Step(np.stack([picture] * sampling.window), 0.0, float(_IMAGE_SECONDS), small)
                yield place, outcome
            return
        index = read_index(path, heartbeat)
        plans: dict[int, ClipPlan] = {}
        for place, (start_s, end_s) in enumerate(parts):
            try:
                plan = ClipPlan.make(index, start_s, end_s, sampling, thumbnails)
                plans[place] = plan.thumbnails_only() if thumbnails_only else plan
            except DecodeError as error:
                left.discard(place)
                yield place, error.outcome
        if plans:
            for place, item in _decode_planned(path, index, plans, transform, heartbeat, opened, decoder):
                if isinstance(item, Outcome):
                    left.discard(place)
                yield place, item
    except DecodeError as error:
        for place in sorted(left):
            yield place, error.outcome


def _decode_planned(
    path: Path,
    index: FrameIndex,
    plans: dict[int, ClipPlan],
    transform: Picture,
    heartbeat: Heartbeat,
    opened: Callable[[int], None],
    decoder: str,
) -> Iterator[tuple[int, Step | Outcome]]:
    places = list(plans)
    clips = [ClipAssembly(plan) for plan in plans.values()]
    health = ClipHealth(index, [plan.wanted for plan in plans.values()], lambda clip: opened(places[clip]))
    takers: dict[int, list[int]] = {}
    for clip, plan in enumerate(plans.values()):
        for number in plan.wanted:
            takers.setdefault(number, []).append(clip)
    source = picture_source(decoder)
    last, made, small = None, np.empty(0, np.uint8), b""
    for number, picture in source(path, index, sorted(takers), health, heartbeat):
        if picture is not last:
            last, made, small = picture, transform(picture), b""
        if not small and any(clips[clip].shows(number) for clip in takers[number]):
            small = encode(picture)
        for clip in takers[number]:
            for step in clips[clip].take(number, made, small):
                yield places[clip], step
            if clips[clip].complete:
                yield places[clip], _ended(plans[places[clip]], *health.of(clip))


def _ended(plan: ClipPlan, lost: int, expected: int) -> Outcome:
    lost, total = lost + plan.lost, max(expected, plan.frames) + plan.lost
    if lost:
        cause = "the file is cut short" if plan.cut else "corrupt data"
        return Outcome(DAMAGED, f"{cause}: {lost} of {total} frames lost ({lost / total:.1%})")
    if plan.fault:
        return Outcome(DAMAGED, plan.fault)
    if plan.cut:
        return Outcome(DAMAGED, "the file is cut short, and does not say how many frames are lost")
    return Outcome(OK, plan.note)


def _refuse_endless(path: Path) -> None:
    """Refuse pipes, sockets and devices: opening or reading one may wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DecodeError(UNREADABLE, "a pipe, socket or device, not a file")


def _nothing() -> None:
    return None


def _ignore(clip: int) -> None:
    return None


def _as_is(picture: np.ndarray) -> np.ndarray:
    return picture
