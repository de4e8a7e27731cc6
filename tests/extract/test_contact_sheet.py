"""The contact sheet: everything at its place, the right clip marked, absent files told."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from supportset.search.contact_sheet import (
    BORDER,
    CELL_GAP,
    CELL_HEIGHT,
    CELL_WIDTH,
    PAGE,
    QUERY_WIDTH,
    RIGHT,
    THUMB,
    THUMB_GAP,
    Hit,
    SheetRow,
    _cut,
    _font,
    _wrap,
    contact_sheet,
)
from supportset.store.errors import SupportsetError

TONES = [(220, 30, 30), (30, 200, 40), (40, 60, 230)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames: three red, three green, three blue."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=9, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for tone in TONES:
            for _ in range(3):
                picture = np.full((64, 64, 3), tone, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def left_of(place: int) -> int:
    return PAGE + QUERY_WIDTH + CELL_GAP + place * (CELL_WIDTH + CELL_GAP)


def find_row(pixels: np.ndarray, tone: tuple[int, int, int], place: int) -> int:
    """The first line on which the border of the hit at ``place`` has the tone."""
    column = pixels[:, left_of(place) + 1]
    return int(np.nonzero((column == tone).all(axis=1))[0][0])


def test_frames_run_from_left_to_right_in_time_and_the_right_one_is_green(film: Path, tmp_path: Path) -> None:
    hits = [Hit("first", film, 0.9), Hit("second", film, 0.8, right=True)]
    out = contact_sheet([SheetRow("a thing changes its colour", hits, 2)], tmp_path / "new" / "sheet.png", "run")
    image = Image.open(out)
    assert image.format == "PNG"
    pixels = np.asarray(image.convert("RGB"), dtype=int)
    assert pixels.shape[1] == 2 * PAGE + QUERY_WIDTH + 2 * (CELL_WIDTH + CELL_GAP)
    y = find_row(pixels, RIGHT, 1)
    assert not (pixels[:, left_of(0) : left_of(0) + CELL_WIDTH] == RIGHT).all(axis=2).any(), (
        "only the right one is green"
    )
    for place in (0, 1):
        for frame, tone in enumerate(TONES):
            x = left_of(place) + BORDER + frame * (THUMB + THUMB_GAP) + THUMB // 2
            assert np.abs(pixels[y + CELL_HEIGHT // 2, x] - tone).max() < 12


def test_the_right_clip_has_a_tick(film: Path, tmp_path: Path) -> None:
    def marked(right: bool) -> int:
        row = SheetRow("query", [Hit("clip", film, 0.5, right=right)], 1)
        pixels = np.asarray(Image.open(contact_sheet([row], tmp_path / "sheet.png", "run")).convert("RGB"))
        top = find_row(pixels, RIGHT if right else (200, 204, 211), 0)
        end = left_of(0) + CELL_WIDTH
        badge = pixels[top - 8 : top + 24, end - 26 : end + 6]
        return int((badge > 240).all(axis=2).sum()), int((badge == RIGHT).all(axis=2).sum())

    white, green = marked(True)
    assert green > 300
    assert white > 50
    assert marked(False)[1] == 0


@pytest.mark.parametrize("kind", ["none", "absent", "text"])
def test_a_clip_without_pictures_is_told(film: Path, tmp_path: Path, kind: str) -> None:
    path = {"none": None, "absent": tmp_path / "gone.mp4", "text": tmp_path / "text.mp4"}[kind]
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 50)
    pixels = np.asarray(
        Image.open(contact_sheet([SheetRow("query", [Hit("clip", path, 0.5)])], tmp_path / "sheet.png", "run")).convert(
            "RGB"
        )
    )
    y = find_row(pixels, (200, 204, 211), 0)
    field = pixels[y + BORDER : y + BORDER + THUMB, left_of(0) + BORDER : left_of(0) + CELL_WIDTH - BORDER]
    assert ((field == (228, 230, 234)).all(axis=2)).mean() > 0.8, "a grey field"
    assert (field < 150).all(axis=2).any(), "with words on it"


def test_a_photograph_stands_in_the_middle(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50), (250, 120, 10)).save(tmp_path / "photo.png")
    row = SheetRow("query", [Hit("clip", tmp_path / "photo.png", 0.5)])
    pixels = np.asarray(Image.open(contact_sheet([row], tmp_path / "sheet.png", "run")).convert("RGB"), dtype=int)
    y = find_row(pixels, (200, 204, 211), 0) + CELL_HEIGHT // 2
    assert np.abs(pixels[y, left_of(0) + CELL_WIDTH // 2] - (250, 120, 10)).max() < 4
    assert pixels[y, left_of(0) + BORDER + 10].max() < 40


def test_part_of_a_file(film: Path, tmp_path: Path) -> None:
    """A clip that is the last third of its file shows only that."""
    row = SheetRow("query", [Hit("clip", film, 0.5, start_s=6 / 9, end_s=1.0)])
    pixels = np.asarray(Image.open(contact_sheet([row], tmp_path / "sheet.png", "run")).convert("RGB"), dtype=int)
    y = find_row(pixels, (200, 204, 211), 0) + CELL_HEIGHT // 2
    for frame in range(3):
        x = left_of(0) + BORDER + frame * (THUMB + THUMB_GAP) + THUMB // 2
        assert np.abs(pixels[y, x] - TONES[2]).max() < 12


def test_long_queries_make_rows_higher_and_are_not_cut(film: Path, tmp_path: Path) -> None:
    def height(query: str) -> int:
        rows = [SheetRow(query, [Hit("clip", film, 0.5)], 1)]
        return Image.open(contact_sheet(rows, tmp_path / "sheet.png", "run")).height

    assert height("short") == height("just as short")
    assert height("many words " * 30) > height("short") + 150


def test_rows_may_have_different_numbers_of_hits(film: Path, tmp_path: Path) -> None:
    rows = [SheetRow("one", [Hit("a", film, 0.1)] * 3), SheetRow("none", []), SheetRow("two", [Hit("b", film, 0.2)])]
    image = Image.open(contact_sheet(rows, tmp_path / "sheet.png", "run", "protocol demo"))
    assert image.width == 2 * PAGE + QUERY_WIDTH + 3 * (CELL_WIDTH + CELL_GAP)


def test_lines_are_cut_between_words_and_nothing_is_lost() -> None:
    font = _font(19)
    text = "a ball rolls over the " + "very" * 40 + " long line and ends"
    lines = _wrap(text, font, 200)
    assert all(font.getlength(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert lines[0] == "a ball rolls over the"
    assert _wrap("", font, 200) == []


def test_labels_are_shortened_with_dots() -> None:
    font = _font(14)
    assert _cut("short", font, 200) == "short"
    cut = _cut("x" * 200, font, 120)
    assert cut.endswith("...")
    assert 90 < font.getlength(cut) <= 120


def test_the_same_rows_give_the_same_picture(film: Path, tmp_path: Path) -> None:
    rows = [SheetRow("query", [Hit("clip", film, 0.5, right=True)], 1)]
    one, two = (contact_sheet(rows, tmp_path / name, "run").read_bytes() for name in ("a.png", "b.png"))
    assert one == two


def test_no_rows_and_a_place_that_cannot_be_written_are_told(film: Path, tmp_path: Path) -> None:
    with pytest.raises(SupportsetError, match="at least one query"):
        contact_sheet([], tmp_path / "sheet.png", "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(SupportsetError, match="cannot be written"):
        contact_sheet([SheetRow("query", [])], tmp_path / "file" / "sheet.png", "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
