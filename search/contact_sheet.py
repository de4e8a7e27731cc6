"""A picture of retrieval results: queries, their best clips, and which one was right."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.outcome import DecodeError
from supportset.store.errors import SupportsetError

# Pixels.
PAGE = 28  # margin around everything
THUMB = 88  # side of a frame's box
THUMB_GAP = 3
BORDER = 5  # of a clip's frame
CELL_GAP = 14
QUERY_WIDTH = 290
LINE = 25  # of the query's text
LABEL = 22  # of the line below a clip
ROW_GAP = 20

INK, FAINT, RULE, PAPER = (32, 36, 44), (112, 118, 128), (224, 227, 232), (252, 252, 253)
RIGHT, OTHER, BLANK, BACKING = (30, 158, 84), (200, 204, 211), (228, 230, 234), (24, 26, 30)

# Of nine frames over the clip, unevenly: evenly spaced ones can all fall where a blinking thing is off.
_SAMPLED, _SHOWN = 9, (1, 3, 7)

_STRIP = len(_SHOWN) * THUMB + (len(_SHOWN) - 1) * THUMB_GAP
CELL_WIDTH, CELL_HEIGHT = _STRIP + 2 * BORDER, THUMB + 2 * BORDER


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved clip.

    Attributes
    ----------
    clip_id : str
        Its name, shown below it.
    path : Path or None
        Its video or image; None where there is none.
    score : float
        Similarity to the query.
    right : bool
        Whether the query describes it.
    start_s, end_s : float or None
        The clip's part of the file in seconds; None for the file's own start or end.
    """

    clip_id: str
    path: Path | None
    score: float
    right: bool = False
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One query and its best clips, best first.

    Attributes
    ----------
    query : str
        The text that was searched.
    hits : sequence of Hit
        The best clips.
    right_rank : int or None
        Place of the right clip, counted from 1; None if unknown.
    """

    query: str
    hits: Sequence[Hit]
    right_rank: int | None = None


def contact_sheet(rows: Sequence[SheetRow], out: Path, title: str, subtitle: str = "") -> Path:
    """Draw the rows and write them as a PNG picture.

    Parameters
    ----------
    rows : sequence of SheetRow
        At least one query; rows may differ in their number of hits.
    out : Path
        The picture; its folder is made where absent, a picture that is there is replaced.
    title, subtitle : str
        Lines above the rows, e.g. the run's name, and protocol, gallery and score.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    SupportsetError
        No rows, or the picture cannot be written. A clip whose file is absent or cannot be decoded is no error: its
        place in the sheet says so.
    """
    if not rows:
        raise SupportsetError(f"{out}: a contact sheet needs at least one query")
    columns = max(1, max(len(row.hits) for row in rows))
    width = 2 * PAGE + QUERY_WIDTH + columns * (CELL_WIDTH + CELL_GAP)
    head = _wrap(title, _font(27), width - 2 * PAGE), _wrap(subtitle, _font(17), width - 2 * PAGE)
    wrapped = [_wrap(row.query, _font(19), QUERY_WIDTH - 16) for row in rows]
    heights = [max(CELL_HEIGHT + LABEL, len(lines) * LINE + 30) for lines in wrapped]
    top = PAGE + len(head[0]) * 36 + len(head[1]) * 24 + 14
    sheet = Image.new("RGB", (width, top + sum(heights) + len(rows) * 2 * ROW_GAP + PAGE), PAPER)
    pen = ImageDraw.Draw(sheet)
    y = PAGE
    for lines, font, ink, step in ((head[0], _font(27), INK, 36), (head[1], _font(17), FAINT, 24)):
        for line in lines:
            pen.text((PAGE, y), line, ink, font)
            y += step
    strips: dict[tuple[object, ...], Image.Image] = {}
    y = top
    for row, lines, height in zip(rows, wrapped, heights, strict=True):
        pen.line([(PAGE, y), (width - PAGE, y)], RULE, 1)
        y += ROW_GAP
        _draw_query(pen, lines, row.right_rank, y)
        for place, hit in enumerate(row.hits):
            key = (hit.path, hit.start_s, hit.end_s)
            if key not in strips:
                strips[key] = _strip(hit)
            x = PAGE + QUERY_WIDTH + CELL_GAP + place * (CELL_WIDTH + CELL_GAP)
            _draw_hit(sheet, hit, strips[key], place + 1, x, y)
        y += height + ROW_GAP
    _save(sheet, out)
    return out


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_query(pen: ImageDraw.ImageDraw, lines: list[str], right_rank: int | None, y: int) -> None:
    for line in lines:
        pen.text((PAGE, y), line, INK, _font(19))
        y += LINE
    if right_rank is not None:
        ink = RIGHT if right_rank == 1 else FAINT
        pen.text((PAGE, y + 5), f"right clip: rank {right_rank}", ink, _font(15))


def _draw_hit(sheet: Image.Image, hit: Hit, strip: Image.Image, place: int, x: int, y: int) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.rounded_rectangle([x, y, x + CELL_WIDTH - 1, y + CELL_HEIGHT - 1], 6, RIGHT if hit.right else OTHER)
    sheet.paste(strip, (x + BORDER, y + BORDER))
    if hit.right:
        _draw_tick(sheet, x + CELL_WIDTH - 26, y - 8)
    score = f"{hit.score:.3f}"
    font, below = _font(14), y + CELL_HEIGHT + 3
    room = CELL_WIDTH - pen.textlength(score, font) - 12
    pen.text((x + 1, below), _cut(f"{place}. {hit.clip_id}", font, room), RIGHT if hit.right else FAINT, font)
    pen.text((x + CELL_WIDTH - 1, below), score, RIGHT if hit.right else FAINT, font, anchor="ra")


def _draw_tick(sheet: Image.Image, x: int, y: int) -> None:
    """A white tick in a green disc of 32 pixels, drawn large and scaled down: fonts may lack the sign."""
    scale, side = 4, 32
    badge = Image.new("L", (side * scale, side * scale), 0)
    ImageDraw.Draw(badge).ellipse([0, 0, side * scale - 1, side * scale - 1], 255)
    inner = Image.new("RGB", badge.size, PAPER)
    pen = ImageDraw.Draw(inner)
    pen.ellipse([2 * scale, 2 * scale, (side - 2) * scale - 1, (side - 2) * scale - 1], RIGHT)
    tick = [(at[0] * scale, at[1] * scale) for at in ((9, 17), (14, 22), (23, 11))]
    pen.line(tick, (255, 255, 255), 4 * scale, joint="curve")
    sheet.paste(inner.reduce(scale), (x, y), badge.reduce(scale))


def _strip(hit: Hit) -> Image.Image:
    """Frames of the clip side by side, or a grey field that says why there are none."""
    if hit.path is None or not hit.path.is_file():
        return _blank("no file" if hit.path is None else f"no file: {hit.path.name}")
    frames = []
    try:
        for step in decode_clip(hit.path, hit.start_s, hit.end_s, Sampling(frames=_SAMPLED)):
            frames.append(_thumb(Image.fromarray(step.frames[0])))
    except DecodeError as error:
        # A damaged file raises only after the frames that it has.
        if not frames:
            return _blank(f"{error.outcome.status}: {hit.path.name}")
    if len(frames) == _SAMPLED:
        frames = [frames[index] for index in _SHOWN]
    strip = Image.new("RGB", (_STRIP, THUMB), BACKING)
    # A photograph, or a clip of very few frames, stands in the middle.
    frames = frames[: len(_SHOWN)]
    x = (_STRIP - len(frames) * THUMB - (len(frames) - 1) * THUMB_GAP) // 2
    for frame in frames:
        strip.paste(frame, (x, 0))
        x += THUMB + THUMB_GAP
    return strip


def _thumb(picture: Image.Image) -> Image.Image:
    return ImageOps.pad(picture, (THUMB, THUMB), Image.Resampling.LANCZOS, color=BACKING)


def _blank(why: str) -> Image.Image:
    field = Image.new("RGB", (_STRIP, THUMB), BLANK)
    font = _font(14)
    text = _cut(why, font, _STRIP - 16)
    ImageDraw.Draw(field).text((_STRIP // 2, THUMB // 2), text, FAINT, font, anchor="mm")
    return field


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    """Cut a text into lines of at most ``width`` pixels, between words, or within one that is longer than a line."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width:
            fits = max(1, next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width))
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Shorten a text to ``width`` pixels, with dots in the place of its end."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _save(sheet: Image.Image, out: Path) -> None:
    """Write beside ``out`` and rename, so that no half picture is ever there."""
    temporary = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            sheet.save(temporary, format="PNG", optimize=True)
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SupportsetError(f"{out}: the contact sheet cannot be written ({error}): give a writable place") from error
