"""Contact sheets: queries and the pictures that they found, as one PNG."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from wentu.formats import write_atomic
from wentu.language import pick
from wentu.report.style import INK, LINE, PAPER, QUIET, chinese_font, clean

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFont import FreeTypeFont

Shot: TypeAlias = tuple[bytes, str]
"""An encoded picture, of any format that Pillow opens, and its label."""
COLUMNS = 4, 10
"""The fewest and the most pictures that a contact sheet is wide."""


def contact_sheet(rows: list[tuple[str, list[Shot]]], path: Path, *, cell: int = 150) -> None:
    """Write a PNG with one strip per query: its text, and its pictures with labels below.

    ``rows`` are (query, pictures in order). A picture is fitted into ``cell`` x ``cell`` pixels,
    upright, transparency on white; one that does not open is shown as unreadable. Beyond ten
    pictures a strip has a second line. The query is wrapped, a label cut to its cell.
    """
    from PIL import Image, ImageDraw

    fewest, most = COLUMNS
    longest = max((len(shots) for _, shots in rows), default=0)
    columns = min(max(fewest, longest), most)
    fonts = _fonts(cell)
    strips = [_strip(query, shots, columns, cell, fonts) for query, shots in rows]
    margin = cell // 8
    width = columns * (cell + margin) + margin
    height = sum(strip.height for strip in strips) + margin
    sheet = Image.new("RGB", (width, height if strips else margin + cell), PAPER)
    top = margin // 2
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, top))
        if number:
            ImageDraw.Draw(sheet).line((margin, top, width - margin, top), fill=LINE)
        top += strip.height
    if not strips:
        _note(sheet, pick("nothing to show", "没有可显示的内容"), cell)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def _fonts(cell: int) -> tuple[FreeTypeFont, FreeTypeFont]:
    """For headings and for labels, in sizes that suit the cell."""
    from PIL import ImageFont

    path = str(chinese_font())
    sizes = max(14, round(cell / 8)), max(11, round(cell / 12))
    heading, label = (ImageFont.truetype(path, size) for size in sizes)
    return heading, label


def _strip(
    query: str,
    shots: list[Shot],
    columns: int,
    cell: int,
    fonts: tuple[FreeTypeFont, FreeTypeFont],
) -> Image.Image:
    """One query and its pictures, across the whole width of the sheet."""
    from PIL import Image, ImageDraw

    heading, label = fonts
    margin = cell // 8
    width = columns * (cell + margin) + margin
    words = _wrap(clean(query), heading, width - 2 * margin)
    step, below = round(heading.size * 1.4), round(label.size * 1.9)
    lines = max(1, -(-len(shots) // columns))
    pitch = cell + below + margin // 3 if shots else round(label.size * 2)
    top = margin // 2 + step * len(words) + margin // 2
    strip = Image.new("RGB", (width, top + lines * pitch + margin // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(words):
        draw.text((margin, margin // 2 + number * step), line, INK, heading)
    if not shots:
        draw.text((margin, top), pick("no results", "没有结果"), QUIET, label)
    for number, (data, text) in enumerate(shots):
        down, across = divmod(number, columns)
        x, y = margin + across * (cell + margin), top + down * pitch
        picture = thumbnail(data, cell - 2)
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill="#f5f7f9", outline=LINE)
        strip.paste(picture, (x + (cell - picture.width) // 2, y + (cell - picture.height) // 2))
        line = _ellipsize(clean(text), label, cell)
        draw.text((x + cell / 2, y + cell + below / 2), line, QUIET, label, anchor="mm")
    return strip


def _note(sheet: Image.Image, text: str, cell: int) -> None:
    from PIL import ImageDraw

    centre = sheet.width / 2, sheet.height / 2
    ImageDraw.Draw(sheet).text(centre, text, QUIET, _fonts(cell)[0], anchor="mm")


def _wrap(text: str, font: FreeTypeFont, width: float, most: int = 3) -> list[str]:
    """Up to ``most`` lines of at most ``width`` pixels: Latin breaks at spaces, Chinese anywhere.

    A word wider than a line is broken too, and what does not fit ends in an ellipsis.
    """
    lines = [""]
    # A mark that closes stays with the character before it, as Chinese typesetting asks.
    for token in re.findall(r"(?:[!-~]+|.)[，。！？、；：）》」』”’]* ?", text[:1000]):
        wide = font.getlength(token.rstrip()) > width
        for piece in token if wide else [token]:
            if font.getlength((lines[-1] + piece).rstrip()) <= width or not lines[-1]:
                lines[-1] += piece
            else:
                lines.append(piece)
    if len(lines) > most:
        lines[most - 1 :] = [_ellipsize("".join(lines[most - 1 :]), font, width)]
    return [line.rstrip() for line in lines]


def _ellipsize(text: str, font: FreeTypeFont, width: float) -> str:
    """The longest beginning that fits ``width`` pixels, with an ellipsis if it is not all."""
    if font.getlength(text[:200]) <= width and len(text) <= 200:
        return text
    text = text[:200]
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def thumbnail(data: bytes, side: int) -> Image.Image:
    """An upright RGB picture of at most ``side`` x ``side``; a grey note if it does not open."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which the inventory reports
            return _decode(data, side)
    # Decoders raise what they like on broken bytes, and one picture must not cost the report.
    except Exception:
        blank = Image.new("RGB", (side, side), "#eef1f4")
        _note(blank, pick("unreadable", "无法读取"), min(side, 120))
        return blank


def _decode(data: bytes, side: int) -> Image.Image:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as opened:
        opened.draft("RGB", (2 * side, 2 * side))  # a large JPEG is decoded small
        picture = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, PAPER), picture)
    picture = picture.convert("RGB")
    # A small picture is enlarged, at most twice, so that a sheet of icons is not all frame.
    side = min(side, 2 * max(picture.size))
    return ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS)
