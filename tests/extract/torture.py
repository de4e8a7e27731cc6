"""A folder of odd, damaged and hostile files, and what should become of each."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.extract.films import filtered, picture, write_audio, write_video

FPS = 2
SELECTION = ("setpts=PTS-STARTPTS", f"fps=fps={FPS}:round=near")  # -vf of ffmpeg; and -pix_fmt rgb24
GAPS = [0, 40, 80, 120, 400, 440, 1000, 1010, 1020, 1500, 2200, 2210, 3000, 3700, 3740, 4100, 5200, 5240, 5900, 6000]
Images = Callable[[Path], list[np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A file and its fate.

    Attributes
    ----------
    make : writes the file
    status : that the run should come to; ``damaged`` where features are kept with the damage told
    says : part of the message
    images : the pictures that the clip's steps should be of, given the file; None where it is not to be compared
    """

    make: Callable[[Path], Any]
    status: str = "ok"
    says: str = ""
    images: Images | None = field(default=lambda path: filtered(path, *SELECTION))


def film(**options: Any) -> Callable[[Path], Any]:
    return lambda path: write_video(path, **({"count": 50} | options))


def turned(name: str) -> Images:
    """What ffmpeg puts before the filters for a file that is to be shown turned."""
    return lambda path: filtered(path, *name.split(","), *SELECTION)


def spoilt(make: Callable[[Path], Any], spoil: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        make(path)
        path.write_bytes(spoil(bytearray(path.read_bytes())))

    return write


def cut(share: float) -> Callable[[bytearray], bytearray]:
    """Keep a share of the bytes; never a whole number of a transport stream's packets.

    Where such a stream ends between two packets and a frame ends there, too, it looks whole to anyone.
    """

    def shorten(data: bytearray) -> bytearray:
        length = int(len(data) * share)
        return data[: length - 20 if length % 188 == 0 else length]

    return shorten


def noisy(data: bytearray, seed: int = 5) -> bytearray:
    """Overwrite four stretches in the second quarter."""
    noise = np.random.default_rng(seed)
    for at in noise.integers(len(data) // 4, len(data) // 2, 4):
        data[at : at + 200] = noise.bytes(200)
    return data


def header_only(data: bytearray) -> bytearray:
    return data[: data.index(b"mdat") - 4]


def joined(path: Path) -> None:
    """Three recordings, one after the other: the clock jumps by hours, forward and back, and counts on."""
    parts = [path.with_name(f".part{number}.ts") for number in range(3)]
    data, count = b"", 0
    for part, hours in zip(parts, (3.0, 20.0, 0.0), strict=True):
        write_video(part, 25, options={"bf": "0"}, muxer={"output_ts_offset": str(hours * 3600)}, container="mpegts")
        packets, count = _counted_from(count + 5, part.read_bytes())
        data += packets
        part.unlink()
    path.write_bytes(data)


def _counted_from(start: int, data: bytes) -> tuple[bytes, int]:
    """Let the counters of a stream's video packets (mod 16) begin anew; left alone, they might fit by chance."""
    packets = [bytearray(data[at : at + 188]) for at in range(0, len(data), 188)]
    for packet in packets:
        if int.from_bytes(packet[1:3], "big") & 0x1FFF == 256 and packet[3] & 0x10:  # the video's; with a payload
            packet[3] = packet[3] & 0xF0 | start % 16
            start += 1
    return b"".join(packets), start


def images_of_joined(path: Path) -> list[np.ndarray]:
    """Frames 0 to 24 three times, a step of half a second each: the last frame before 0.25 s, 0.75 s, ..."""
    images = filtered(path)
    assert len(images) == 75
    return [images[max(0, -(-(2 * k + 1) * 25 // 4) - 1)] for k in range(6)]


def wrong_time(data: bytearray) -> bytearray:
    """The 31st block of a Matroska file claims to be shown half a minute later; its picture is whole."""
    data[_byte_of_time(data)] |= 0x70
    return data


def _byte_of_time(data: bytearray) -> int:
    """Where the time of the 31st block begins."""
    at, blocks = data.index(b"\x1f\x43\xb6\x75") + 4, 0  # a cluster: go into it, and from element to element
    at += 9 - data[at].bit_length()
    while blocks < 31:
        kind, at = data[at], at + 1
        width = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
        at += width + size
        blocks += kind == 0xA3
    return at - size + 1  # of track, time (two bytes), flags, picture


def images_of_constant(path: Path) -> list[np.ndarray]:
    """Those of the same film with right times; no step shows the frame that is wrong."""
    data, constant = bytearray(path.read_bytes()), path.parents[1] / "constant.mkv"
    data[_byte_of_time(data)] &= ~0x70  # encoding it anew would not do: x264 may write other bytes each time
    constant.write_bytes(data)
    return filtered(constant, *SELECTION)


def edit_list(path: Path) -> None:
    """Cut without encoding anew: the first 13 frames have negative times, and are hidden by an edit list."""
    whole = write_video(path.with_name(f".whole{path.suffix}"), 60, gop=20, options={"bf": "2"})
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - 13 * 512, packet.dts - 13 * 512, stream
                target.mux(packet)
    whole.unlink()


def one_colour(*colour: int) -> Callable[[Path], Any]:
    return lambda path: Image.new("RGB", (64, 48), colour).save(path)


def still(path: Path) -> None:
    Image.fromarray(picture(3)).save(path)


def animated(path: Path) -> None:
    frames = [Image.fromarray(picture(number)) for number in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, lossless=True)


def first_picture(path: Path) -> list[np.ndarray]:
    return [picture(3) if path.suffix == ".png" else picture(0)]


def half_an_image(path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file, "PNG")
    path.write_bytes(file.getvalue()[: len(file.getvalue()) // 2])


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def forbidden(path: Path) -> None:
    write_video(path, 10)
    path.chmod(0)


READABLE: dict[str, Case] = {
    "constant.mp4": Case(film()),
    "ntsc.mkv": Case(film(rate=Fraction(30000, 1001))),
    "variable.mp4": Case(film(count=len(GAPS), ticks=GAPS)),
    "variable.mkv": Case(film(count=len(GAPS), ticks=GAPS)),
    "b-frames.mp4": Case(film(options={"bf": "3"})),
    "one-frame.mp4": Case(film(count=1), images=filtered),  # the filter gives none: too short for it
    "turned-90.mp4": Case(film(rotation=90), images=turned("transpose=clock")),
    "turned-180.mp4": Case(film(rotation=180), images=turned("hflip,vflip")),
    "turned-270.mp4": Case(film(rotation=270), images=turned("transpose=cclock")),
    "wide-pixels.mp4": Case(film(options={"x264-params": "sar=2/1"})),
    "ten-bit.mp4": Case(film(codec="libx265", pixels="yuv420p10le")),
    "odd.webm": Case(film(codec="libvpx-vp9", size=(63, 47), options={"cpu-used": "8"})),
    "odd.mp4": Case(film(size=(63, 47), pixels="yuv444p")),
    "interlaced.mpg": Case(film(codec="mpeg2video", options={"flags": "+ildct+ilme"})),
    "interlaced.mp4": Case(film(options={"x264-params": "tff=1"})),
    "animation.gif": Case(film(codec="gif", pixels="rgb8", rate=10, count=20)),
    "negative.mp4": Case(edit_list),
    "negative.mov": Case(edit_list),
    "late.ts": Case(film(muxer={"output_ts_offset": "7000"}, container="mpegts")),
    "h264.mkv": Case(film()),
    "vp8.webm": Case(film(codec="libvpx", options={"cpu-used": "8"})),
    "mpeg4.avi": Case(film(codec="mpeg4")),
    "h264.mov": Case(film()),
    "flash.flv": Case(film(codec="flv1")),
    "appended.mp4": Case(spoilt(film(), lambda data: data + b"somebody's tool" * 30)),
    "still.png": Case(still, images=first_picture),
    "animated.webp": Case(animated, images=first_picture),
    "an image.mp4": Case(
        lambda path: shutil.copyfile(path.with_name("still.png"), path), images=lambda path: [picture(3)]
    ),
    "with space.mp4": Case(film()),
    "ünï-コード.mp4": Case(film()),
    "new\nline.mp4": Case(film()),
    "-dash.mp4": Case(film()),
    "'quotes\".mp4": Case(film()),
    "%03d:http:x;$(y).mp4": Case(film()),
}
DAMAGED: dict[str, Case] = {
    **{
        f"cut-{share:.0%}.{name}": Case(
            spoilt(film(count=75, size=(160, 120), **options), cut(share)), "damaged", "cut", None
        )
        for share in (0.4, 0.7, 0.95)
        for name, options in {
            "mp4": {"muxer": {"movflags": "faststart"}},
            "mkv": {},
            "avi": {"codec": "mpeg4"},
            "ts": {},
            "gif": {"codec": "gif", "pixels": "rgb8"},
        }.items()
    },
    **{
        f"noisy.{name}": Case(
            spoilt(film(count=75, size=(160, 120), gop=75, **options), noisy), "damaged", "corrupt data", None
        )
        for name, options in {
            "mp4": {},
            "mkv": {},
            "ts": {"codec": "mpeg2video"},
            "avi": {"codec": "mpeg4"},
            "hevc.mp4": {"codec": "libx265"},
            "mpg": {"codec": "mpeg2video"},
        }.items()
    },
    # All frames are there; but the container says that packets are missing where the recordings were joined.
    "joined.ts": Case(joined, "damaged", "corrupt data: 2 of 75 frames", images_of_joined),
    "wrong-time.mkv": Case(
        spoilt(film(options={"bf": "0"}), wrong_time), "damaged", "corrupt data: 1 of", images_of_constant
    ),
    "half.png": Case(half_an_image, "damaged", "the image is damaged", None),
}
FAILING: dict[str, Case] = {
    "sound.mp4": Case(write_audio, "no_video", "audio"),
    "empty.mp4": Case(Path.touch, "unreadable", "0 bytes"),
    "text.mp4": Case(lambda path: path.write_text("words, not pictures\n" * 99), "unreadable"),
    "noise.mkv": Case(lambda path: path.write_bytes(np.random.default_rng(0).bytes(9000)), "unreadable"),
    "header-last.mp4": Case(spoilt(film(), cut(0.5)), "unreadable", "cut short"),
    "header-only.mp4": Case(spoilt(film(muxer={"movflags": "faststart"}), header_only), "unreadable"),
    "list.m3u8": Case(
        lambda path: path.write_text("#EXTM3U\n#EXTINF:4,\nconstant.mp4\n#EXT-X-ENDLIST\n"), "unreadable"
    ),
    "folder.mp4": Case(Path.mkdir, "unreadable", "a folder"),
    "pipe.mp4": Case(os.mkfifo, "unreadable", "a pipe"),
    "endless.mp4": Case(endless, "unreadable", "a pipe, socket or device"),
    "loop.mp4": Case(loop, "missing"),
    "hangs.png": Case(one_colour(255, 0, 0), "timeout", "no progress"),
    "kills.png": Case(one_colour(0, 255, 0), "crashed", "signal 11"),
    "memory.png": Case(one_colour(0, 0, 255), "out_of_memory"),
    "raises.png": Case(one_colour(255, 255, 255), "error", "this frame is red"),
    **({} if os.geteuid() == 0 else {"forbidden.mp4": Case(forbidden, "unreadable", "no permission")}),
}
CASES = READABLE | DAMAGED | FAILING
