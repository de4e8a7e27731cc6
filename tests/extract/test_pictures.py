"""What a picture is: side data, orientation and crop of a stream, colour matrices, size; and still images."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from supportset.extract.decode import streams
from supportset.extract.decode.images import is_image, read_image
from supportset.extract.decode.pictures import PictureMaker
from supportset.extract.decode.sampling import Sampling
from supportset.extract.outcome import DecodeError
from tests.extract.films import filtered, outcome_of, picture, steps_of, write_video


def jpeg(number: int, exif: Image.Exif | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number)).save(file, "JPEG", **options, **({} if exif is None else {"exif": exif}))
    return file.getvalue()


def exif_of(**values: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    for key, value in values.items():
        exif[int(key[1:], 16)] = value
    return exif


# --- of videos


@pytest.mark.parametrize("kind", ["avi", "mkv", "mov"])
def test_photographs_with_exif_are_a_video(tmp_path: Path, kind: str) -> None:
    """PyAV knows no name for EXIF as side data of a frame."""
    film = tmp_path / f"lapse.{kind}"
    with av.open(str(film), "w") as file:
        stream = file.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(30):
            packet = av.Packet(jpeg(number, exif_of()))
            packet.stream, packet.time_base, packet.is_keyframe = stream, stream.time_base or 1, True
            packet.pts = packet.dts = round(number / 10 / float(packet.time_base or 1))
            file.mux(packet)
    status, message, steps = outcome_of(film)
    assert (status, message, len(steps)) == ("ok", "", 3)
    for number, step in zip((4, 14, 24), steps, strict=True):
        assert np.abs(step.frames[0].astype(int) - picture(number)).mean() < 8


def test_each_photograph_has_its_own_orientation(tmp_path: Path) -> None:
    film = tmp_path / "lapse.mkv"
    with av.open(str(film), "w") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(3):
            packet = av.Packet(jpeg(number, exif_of(x0112=6) if number == 0 else None))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1), True
            packet.pts = packet.dts = number
            file.mux(packet)
    shapes = [step.frames[0].shape for step in steps_of(film, Sampling(fps=1.0))]
    assert shapes == [(64, 48, 3), (48, 64, 3), (48, 64, 3)]


def test_other_side_data_that_nobody_knows() -> None:
    frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24")
    kind = type(next(iter(av.sidedata.sidedata.Type)))(4711)
    assert (kind.name, kind.value) == ("UNKNOWN_4711", 4711)
    np.testing.assert_array_equal(PictureMaker().rgb(frame), picture(0))


def rewritten(film: Path, path: Path, metadata: str) -> Path:
    """Write a film with other headers of its H.264 or HEVC stream."""
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        name = "mp4toannexb," if path.suffix in (".h264", ".hevc") else ""
        codec = source.streams.video[0].codec_context.name
        chain = (f"{codec}_{name}" if name else "") + f"{codec}_metadata={metadata}"
        change = av.bitstream.BitStreamFilterContext(chain, source.streams.video[0], stream)
        for packet in source.demux(video=0):
            for new in change.filter(packet if packet.size else None):
                new.stream = stream
                target.mux(new)
    return path


@pytest.mark.parametrize("kind", ["mp4", "mkv", "h264"])
@pytest.mark.parametrize(
    ("asked", "turns", "mirrored"), [("rotate=90", 1, 0), ("rotate=180", 2, 0), ("flip=horizontal", 0, 1)]
)
def test_orientation_that_the_stream_states(tmp_path: Path, kind: str, asked: str, turns: int, mirrored: bool) -> None:
    """An SEI message with the key frames, which holds for all frames up to the next."""
    plain = write_video(tmp_path / "film.mp4", 75, gop=75)
    turned = rewritten(plain, tmp_path / f"turned.{kind}", f"display_orientation=insert:{asked}")
    for step, upright in zip(steps_of(turned, Sampling()), steps_of(plain, Sampling()), strict=True):
        expected = upright.frames[0][:, ::-1] if mirrored else np.rot90(upright.frames[0], turns)
        np.testing.assert_array_equal(step.frames[0], expected)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "h264"])
def test_crop_that_the_stream_states(tmp_path: Path, kind: str) -> None:
    plain = write_video(tmp_path / "film.mp4", 30)
    cropped = rewritten(plain, tmp_path / f"cropped.{kind}", "crop_left=10:crop_right=4:crop_top=6:crop_bottom=8")
    (step,), (full,) = steps_of(cropped, Sampling()), steps_of(plain, Sampling())
    assert step.frames[0].shape == (34, 50, 3)
    np.testing.assert_allclose(step.frames[0], full.frames[0][6:-8, 10:-4], atol=40)  # chroma is interpolated
    assert np.abs(step.frames[0].astype(int) - full.frames[0][6:-8, 10:-4]).mean() < 1


@pytest.mark.parametrize(("number", "name"), [(8, "YCgCo"), (10, "BT.2020 constant luminance"), (14, "ICtCp")])
def test_colour_matrices_that_ffmpeg_cannot_convert(tmp_path: Path, number: int, name: str) -> None:
    film = rewritten(write_video(tmp_path / "film.mp4", 10), tmp_path / "matrix.mp4", f"matrix_coefficients={number}")
    status, message, steps = outcome_of(film)
    assert (status, steps) == ("unreadable", [])
    assert f"colour matrix ({name})" in message


def test_frames_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_video(tmp_path / "film.mp4", 10)
    grows = tmp_path / "grows.mkv"
    write_video(grows, 10, codec="ffv1")
    monkeypatch.setattr(streams, "MOST_PIXELS", 64 * 48 - 1)
    for path in (film, grows):
        status, message, _ = outcome_of(path)
        assert status == "unreadable"
        assert "64 x 48 pixels" in message or "can be decoded" in message
    monkeypatch.setattr(streams, "MOST_PIXELS", 64 * 48)
    assert outcome_of(film)[0] == "ok"


# --- still images


@pytest.mark.parametrize(
    ("kind", "name"), [("AVIF", "a.jpg"), ("JPEG2000", "a.jpg"), ("WEBP", "a.png"), ("PNG", "a.mp4"), ("TIFF", "a")]
)
def test_contents_decide_not_names(tmp_path: Path, kind: str, name: str) -> None:
    lossless = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    Image.fromarray(picture(5)).save(tmp_path / name, kind, **lossless)
    status, message, (step,) = outcome_of(tmp_path / name)
    assert (status, message) == ("ok", "")
    assert np.abs(step.frames[0].astype(int) - picture(5)).mean() < 8


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def tiled(tiles: list[bytes], configuration: bytes, codec: bytes, brand: bytes, tile: int) -> bytes:
    """A HEIF file of 2 x 2 tiles, as phones write them (ISO/IEC 23008-12, 6.6.2.3)."""
    grid = struct.pack(">BBBBHH", 0, 0, 1, 1, 2 * tile, 2 * tile)
    numbers = range(2, 6)

    def meta(at: int) -> bytes:
        places, items = b"", b""
        for number, size in zip((1, *numbers), map(len, (grid, *tiles)), strict=True):
            places += struct.pack(">HHHII", number, 0, 1, at, size)
            at += size
            items += box(b"infe", struct.pack(">IHH", 2 << 24, number, 0), b"grid" if number == 1 else codec, b"\0")
        sizes = [box(b"ispe", struct.pack(">III", 0, edge, edge)) for edge in (2 * tile, tile)]
        linked = struct.pack(">HBB", 1, 1, 0x81) + b"".join(struct.pack(">HBBB", n, 2, 0x82, 0x83) for n in numbers)
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, 1)),
            box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, 5), places),
            box(b"iinf", struct.pack(">IH", 0, 5), items),
            box(b"iref", bytes(4), box(b"dimg", struct.pack(">HH4H", 1, 4, *numbers))),
            box(b"iprp", box(b"ipco", *sizes, configuration), box(b"ipma", struct.pack(">II", 0, 5), linked)),
        )

    head = box(b"ftyp", brand, bytes(4), b"mif1", brand)
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", grid, *tiles)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.heic"])
def test_tiles_are_one_picture(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pi_heif")
    edge, intra = 64, {"x265-params": "log-level=none:keyint=1:bframes=0:qp=4"}
    film = write_video(tmp_path / "tiles.mp4", 4, codec="libx265", size=(edge, edge), options=intra)
    with av.open(str(film)) as file:
        configuration = box(b"hvcC", bytes(file.streams.video[0].codec_context.extradata or b""))
        tiles = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    above, below = (np.hstack([picture(number, (edge, edge)) for number in row]) for row in ((0, 1), (2, 3)))
    image = np.vstack([above, below])
    (tmp_path / name).write_bytes(tiled(tiles, configuration, b"hvc1", b"heic", edge))
    status, message, steps = outcome_of(tmp_path / name)
    assert (status, message, len(steps)) == ("ok", "", 1)
    assert steps[0].frames[0].shape == (128, 128, 3)
    assert np.abs(steps[0].frames[0].astype(int) - image).mean() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_beside_broken_exif(tmp_path: Path, orientation: int) -> None:
    """The orientation can be read, though not all of EXIF can."""
    data, path = jpeg(3, quality=95), tmp_path / "a.jpg"
    path.write_bytes(data)
    upright = read_image(path)[0]
    exif = exif_of(x0112=orientation).tobytes().replace(b"a camera", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8") + b"\0" * 3
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    turns = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)
    mirrored = orientation in (2, 4, 5, 7)
    expected = np.rot90(upright, turns)
    got, outcome = read_image(path)
    assert outcome.status == "ok"
    np.testing.assert_array_equal(got, expected[:, ::-1] if mirrored else expected)


def test_long_texts_are_no_damage(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("notes", "x" * 3 * 2**20, zip=True)
    info.add(b"eXIf", b"no EXIF at all")
    Image.fromarray(picture(1)).save(tmp_path / "a.png", pnginfo=info)
    got, outcome = read_image(tmp_path / "a.png")
    assert (outcome.status, outcome.message) == ("ok", "")
    np.testing.assert_array_equal(got, picture(1))


def test_large_photographs_are_read(tmp_path: Path) -> None:
    """108 megapixels, as phones take them; twice as many are refused."""

    def png(width: int, height: int) -> bytes:
        rows = zlib.compress(bytes(height * (1 + -(-width // 8))), 1)
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )

    (tmp_path / "a.png").write_bytes(png(12_000, 9_000))
    assert read_image(tmp_path / "a.png")[0].shape == (9_000, 12_000, 3)
    (tmp_path / "b.png").write_bytes(png(24_000, 9_000))
    with pytest.raises(DecodeError, match=r"unreadable.*pixels"):
        read_image(tmp_path / "b.png")


@pytest.mark.parametrize("missing", [2, 20, 0.5])
def test_a_cut_jpeg_keeps_what_it_has(tmp_path: Path, missing: float) -> None:
    data = jpeg(3, quality=95)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data)
    full = read_image(path)[0]
    path.write_bytes(data[: -int(missing if missing >= 1 else missing * len(data))])
    status, message, (step,) = outcome_of(path)
    assert (status, "image is damaged" in message) == ("damaged", True)
    assert step.frames[0].shape == full.shape
    np.testing.assert_array_equal(step.frames[0][:8, :32], full[:8, :32])


def test_damage_that_pillow_does_not_see(tmp_path: Path) -> None:
    data = jpeg(3, quality=95)
    at = data.index(b"\xff\xda") + 300
    data = data[:at] + data[at + 300 :]
    path = tmp_path / "holes.jpg"
    path.write_bytes(data)
    Image.open(path).load()
    assert outcome_of(path)[0] == "damaged"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"quality": 3}])
def test_good_jpegs_are_not_called_damaged(tmp_path: Path, mode: str, options: dict[str, object]) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(3)).convert(mode).save(path, exif=exif_of(x0112=1), comment=b"words", **options)
    path.write_bytes(path.read_bytes() + b"bytes behind the end")
    assert outcome_of(path)[:2] == ("ok", "")


GREY = [(np.uint8, 1), (np.uint16, 257), (np.int32, 1), (np.int32, 257), (np.int32, 2**23)]
GREY += [(np.float32, 1 / 255), (np.float32, 1), (np.float32, 257)]


@pytest.mark.parametrize(("dtype", "scale"), GREY)
def test_grey_values_of_more_bits(tmp_path: Path, dtype: type, scale: float) -> None:
    grey = picture(3)[..., 1].astype(np.float64)
    grey.flat[0] = 255
    Image.fromarray((grey * scale).astype(dtype)).save(tmp_path / "a.tiff")
    got, outcome = read_image(tmp_path / "a.tiff")
    assert outcome.status == "ok"
    assert np.abs(got - grey[..., None]).max() <= 1


def test_a_video_named_like_an_image_is_one(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", 50).rename(tmp_path / "film.jpg")
    assert not is_image(film)
    assert len(steps_of(film, Sampling())) == 2
    np.testing.assert_array_equal(steps_of(film, Sampling())[0].frames[0], filtered(film)[12])
