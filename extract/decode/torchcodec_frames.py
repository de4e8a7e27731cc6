"""Pictures of wanted frames by torchcodec, on the CPU or (NVDEC) on a CUDA device."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from supportset.extract.decode import frame_runs
from supportset.extract.decode.clip_health import ClipHealth
from supportset.extract.decode.frame_index import FrameIndex, Heartbeat

TOLERANCE = 2  # of 255: how far a pixel may be from PyAV's; it was 0 where both used the same FFmpeg
_TOGETHER = 8  # frames of one request: bounds the memory, and the decoder still continues from its position


def wanted_pictures(
    path: Path, index: FrameIndex, wanted: list[int], health: ClipHealth, heartbeat: Heartbeat, *, device: str = "cpu"
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield what ``frame_runs.wanted_pictures`` does; PyAV replaces torchcodec where that fails.

    That is: a file that is cut or has lost frames (only PyAV reports which), one without safe key frames, a picture to
    be turned or mirrored (torchcodec sees only what the container states), and a file that torchcodec refuses or gives
    other times than the index.

    Parameters
    ----------
    path, index, wanted, health, heartbeat : see :func:`supportset.extract.decode.frame_runs.wanted_pictures`
    device : str
        ``cpu``, or a CUDA device; pictures come to the CPU either way, where the transform is.
    """
    done = 0
    if len(index.keys) and not index.cut and not len(index.gone) and index.matrix is None:
        for number, picture in _decode(path, index, wanted, health, heartbeat, device):
            done += 1
            yield number, picture
    if done < len(wanted):
        yield from frame_runs.wanted_pictures(path, index, wanted[done:], health, heartbeat)


def why_not(device: str) -> str:
    """Decode a picture made on the spot, and return in one line why that does not work; empty if it does."""
    try:
        from torchcodec.decoders import VideoDecoder

        frame = VideoDecoder(_small_video(), dimension_order="NHWC", device=device).get_frames_at([0])
        if len(frame.data[0].cpu()) == 256:
            return ""
        return "it gives another picture than was asked for"
    except (ImportError, OSError, RuntimeError, ValueError, AssertionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        missing = [line for line in lines if "cannot open shared object" in line]
        if missing:
            return "FFmpeg's shared libraries, versions 4 to 9, are not installed"
        return lines[0] if lines else type(error).__name__


def _decode(
    path: Path, index: FrameIndex, wanted: list[int], health: ClipHealth, heartbeat: Heartbeat, device: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the frames that torchcodec gives; fewer than wanted where it gives up."""
    from torchcodec.decoders import VideoDecoder

    heartbeat()
    try:
        decoder = VideoDecoder(
            str(path),
            stream_index=index.stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device=device,
            custom_frame_mappings=_mappings(index),
        )
    except (RuntimeError, ValueError):
        return
    for start in range(0, len(wanted), _TOGETHER):
        numbers = wanted[start : start + _TOGETHER]
        health.reach(int(index.ticks[numbers[-1]]))
        heartbeat()
        try:
            batch = decoder.get_frames_at(numbers)
        except (RuntimeError, ValueError):
            return
        times = [float(Fraction(int(index.ticks[number])) * index.time_base) for number in numbers]
        if not np.allclose(batch.pts_seconds.cpu().numpy(), times, rtol=0, atol=float(index.time_base) / 2):
            return
        yield from zip(numbers, batch.data.cpu().numpy(), strict=True)


def _mappings(index: FrameIndex) -> str:
    """The times of all frames as torchcodec takes them, which saves it a scan and makes its numbers ours."""
    ends = np.append(index.ticks[1:], index.end)
    keys = np.isin(index.ticks, index.keys)
    rows = zip(index.ticks.tolist(), (ends - index.ticks).tolist(), keys.tolist(), strict=True)
    return json.dumps({"frames": [{"pts": p, "duration": d, "key_frame": int(k)} for p, d, k in rows]})


def _small_video() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()
