"""One flipped bit in a file: reported, or without effect; and odd files that are whole stay so."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from supportset.extract.decode.damage import gif
from supportset.extract.decode.sampling import Sampling
from tests.extract.films import outcome_of, picture, write_video
from tests.extract.flips import HARMLESS, NOTICED, campaign, gifs, jpegs, photograph, tables

pytestmark = pytest.mark.slow


def test_a_flip_in_a_gif_is_noticed_or_changes_a_few_pixels(tmp_path: Path) -> None:
    """A code that means as many other pixels cannot be told: the format has no checksum."""
    fates, silent = campaign(tmp_path, gifs, 30, "a.gif", sampling=Sampling(fps=10.0))
    assert fates[NOTICED] >= 8, fates
    assert max([far for _, _, far in silent], default=0.0) < 1, silent


def test_a_flip_in_the_tables_of_an_mp4_is_noticed_or_harmless(tmp_path: Path) -> None:
    """The film's own bytes, and so the flips, differ from machine to machine: one in 75 changes what is shown."""
    fates, silent = campaign(tmp_path, tables, 100, "a.mp4", sampling=Sampling(fps=25.0))
    assert fates[NOTICED] >= 30, fates
    assert fates[HARMLESS] >= 30, fates
    assert len(silent) <= 6, silent


def test_flips_in_a_jpeg(tmp_path: Path) -> None:
    """Only those that no code can follow are noticed; docs/extraction.md says so."""
    fates, _ = campaign(tmp_path, jpegs, 40, "a.jpg")
    assert fates[NOTICED] >= 5, fates


def codes_of(
    pixels: list[int], bits: int, *, clear_first: bool, end: bool, keep_full: bool
) -> Iterator[tuple[int, int]]:
    """LZW codes of pixels as (code, width)."""
    clear, width = 1 << bits, bits + 1
    table: dict[tuple[int, ...], int] = {(value,): value for value in range(clear)}
    free = clear + 2
    if clear_first:
        yield clear, width
    known: tuple[int, ...] = ()
    for value in pixels:
        if (*known, value) in table:
            known = (*known, value)
            continue
        yield table[known], width
        if free < 4096:
            table[(*known, value)] = free
            width = max(width, min(12, free.bit_length()))
            free += 1
        elif not keep_full:
            yield clear, width
            table, width, free = {(one,): one for one in range(clear)}, bits + 1, clear + 2
        known = (value,)
    yield table[known], width
    if end:
        yield clear + 1, max(width, min(12, free.bit_length()))


def packed(codes: Iterator[tuple[int, int]], behind: bytes = b"") -> bytes:
    """Codes as the blocks of an image."""
    value = place = 0
    for code, width in codes:
        value |= code << place
        place += width
    data = value.to_bytes(-(-place // 8), "little") + behind
    blocks = [data[at : at + 200] for at in range(0, len(data), 200)]
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def one_image(pixels: np.ndarray, bits: int, data: bytes) -> bytes:
    height, width = pixels.shape
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    colours = np.random.default_rng(0).bytes(3 << bits)
    return (
        b"GIF89a" + size + bytes([0x80 | bits - 1, 0, 0]) + colours + b"," + bytes(4) + size + bytes([0, bits]) + data
    )


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("clear_first", [True, False], ids=["clear", "no clear"])
@pytest.mark.parametrize("end", [True, False], ids=["end", "no end"])
@pytest.mark.parametrize("keep_full", [True, False], ids=["table kept", "table anew"])
@pytest.mark.parametrize("behind", [b"", b"more"], ids=["", "bytes behind"])
def test_writers_of_gifs_differ(
    tmp_path: Path, bits: int, clear_first: bool, end: bool, keep_full: bool, behind: bytes
) -> None:
    if behind and not end:
        pytest.skip("then they are pixels")
    pixels = np.random.default_rng(bits).integers(0, 1 << bits, (120, 160))
    codes = list(codes_of(pixels.ravel().tolist(), bits, clear_first=clear_first, end=end, keep_full=keep_full))
    image = one_image(pixels, bits, packed(iter(codes), behind))
    assert gif.is_whole(image)
    (tmp_path / "a.gif").write_bytes(image + b";")
    assert outcome_of(tmp_path / "a.gif")[:2] == ("ok", "")
    gone = codes[: len(codes) // 2] + codes[len(codes) // 2 + 1 :]
    assert not gif.is_whole(one_image(pixels, bits, packed(iter(gone), behind)))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_bits_that_fill_the_last_byte_are_no_pixels_where_the_end_code_is_missing(bits: int) -> None:
    """Up to seven bits: one or two narrow codes."""
    options = {"clear_first": True, "end": False, "keep_full": True}
    for width in range(1, 60):
        pixels = np.random.default_rng(width).integers(0, 1 << bits, (1, width))
        codes = list(codes_of(pixels.ravel().tolist(), bits, **options))
        assert gif.is_whole(one_image(pixels, bits, packed(iter(codes))))
        if width > 20:
            assert not gif.is_whole(one_image(pixels, bits, packed(iter(codes[: len(codes) // 2]))))


def animation(path: Path, **options: Any) -> Path:
    images = [Image.fromarray(picture(number)).quantize(32) for number in range(12)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=80, **options)
    return path


@pytest.mark.parametrize(
    "options",
    [{"disposal": how} for how in (0, 1, 2, 3)]
    + [{"interlace": 1}, {"optimize": True}, {"transparency": 0}, {"comment": b", and ; more!"}, {"loop": 3}],
    ids=str,
)
def test_animations_of_all_kinds_are_whole(tmp_path: Path, options: dict[str, object]) -> None:
    assert outcome_of(animation(tmp_path / "a.gif", **options), Sampling(fps=12.0))[:2] == ("ok", "")


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}, {"quality": 100}],
    ids=str,
)
@pytest.mark.parametrize("behind", [b"", b"\0" * 99, b"\xff\xd8 a second picture"], ids=["", "zeros", "more"])
def test_jpegs_of_all_kinds_are_whole(tmp_path: Path, options: dict[str, object], behind: bytes) -> None:
    file = io.BytesIO()
    photograph(1).save(file, "JPEG", **options)
    (tmp_path / "a.jpg").write_bytes(file.getvalue() + behind)
    assert outcome_of(tmp_path / "a.jpg")[:2] == ("ok", "")


def test_several_pictures_in_one_file_are_whole(tmp_path: Path) -> None:
    photograph(0).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[photograph(1)])
    assert outcome_of(tmp_path / "a.jpg")[:2] == ("ok", "")


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"options": {"bf": "2"}},
    "no reordering": {"options": {"bf": "0"}},
    "negative offsets": {"options": {"bf": "2"}, "muxer": {"movflags": "negative_cts_offsets"}},
    "pyramid": {"options": {"bf": "7", "b-pyramid": "normal"}},
    "hevc": {"codec": "libx265"},
    "odd rate": {"rate": Fraction(30000, 1001), "options": {"bf": "2"}},
    "open group": {"options": {"bf": "3", "x264-params": "open-gop=1"}},
}


@pytest.mark.parametrize("share", [0.3, 0.55, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_film_that_is_cut_by_its_edit_list_is_whole(tmp_path: Path, kind: str, share: float) -> None:
    """The tables have more frames than are shown."""
    film = write_video(tmp_path / "a.mp4", 60, gop=20, **KINDS[kind])
    data = bytearray(film.read_bytes())
    at = data.find(b"elst") + 12
    if at < 12 and share < 1:
        pytest.skip("this muxer writes no edit list")
    if at >= 12:
        length = int.from_bytes(data[at : at + 4], "big")
        data[at : at + 4] = round(share * length).to_bytes(4, "big")
        film.write_bytes(data)
    status, note, steps = outcome_of(film, Sampling(fps=25.0))
    assert (status, note) == ("ok", "")
    assert len(steps) == pytest.approx(60 * share * 25 / float(KINDS[kind].get("rate", 25)), abs=3)


def test_a_part_copied_without_encoding_is_whole(tmp_path: Path) -> None:
    """It begins at a key frame, whose group has frames shown before it, and ends anywhere."""
    film = write_video(tmp_path / "film.mp4", 100, gop=20, **KINDS["open group"])
    for name, number in (("a.mp4", 43), ("b.mp4", 71), ("c.mov", 98)):
        with av.open(str(film)) as source, av.open(str(tmp_path / name), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            packets = [packet for packet in source.demux(video=0) if packet.size][20:number]
            for packet in packets:
                packet.stream = stream
                target.mux(packet)
        assert outcome_of(tmp_path / name, Sampling(fps=25.0))[0] == "ok", name


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_variable_rates_are_whole(tmp_path: Path, name: str) -> None:
    """A screen recording: long gaps, and bursts."""
    ticks = np.cumsum(np.random.default_rng(3).choice([17, 33, 33, 34, 900], 80)).tolist()
    for frames in ("0", "2"):
        film = write_video(tmp_path / f"{frames}{name}", 80, ticks=ticks, options={"bf": frames})
        assert outcome_of(film, Sampling(fps=10.0))[:2] == ("ok", "")
