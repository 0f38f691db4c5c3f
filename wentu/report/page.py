"""Reports as one HTML file: pictures inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TypeAlias

from wentu.formats import write_atomic
from wentu.language import pick
from wentu.report.sheet import Shot, thumbnail
from wentu.report.style import chinese_font

GALLERY_SIDE = 320
"""Pixels of the longer side of a picture in a report's gallery; shown at half that."""
_NUMBER = re.compile(r"[+\-−±]?\d[\d., ]*(e[+-]?\d+)?( ?%)?|[—–-]?|nan")


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A paragraph of plain text; line breaks are kept."""

    text: str
    heading: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text, whole numbers and fractions (shown with 4 digits).

    A column of nothing but numbers (or dashes for none) is set to the right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    heading: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG, as a file or as bytes, at its full size; ``text`` describes it to who cannot see."""

    png: Path | bytes
    text: str
    heading: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Queries, each with the picture that was expected and the one that came first."""

    rows: Sequence[tuple[str, Shot, Shot]]
    heading: str = ""


Section: TypeAlias = Paragraph | Table | Picture | Gallery


def write_html(path: Path, title: str, sections: list[Section]) -> None:
    """Write a report as one HTML file: pictures inside, no script, nothing fetched.

    Its language is the user's (``lang`` attribute); it follows the reader's light or dark
    setting and prints. Every text is escaped. The Chinese characters that it uses come along as a
    font of a few kilobytes, for readers whose machine has none.
    """
    body = "\n".join(_section(section) for section in sections)
    tag = pick("en", "zh-CN")
    style = _font_face(title + re.sub(r"data:[^\"]*", "", body)) + _STYLE
    page = _PAGE.substitute(lang=tag, title=_escape(title), style=style, body=body)
    write_atomic(path, page.encode("utf-8", "replace"))


def _font_face(text: str) -> str:
    """CSS that carries the characters of ``text`` beyond Latin, cut out of the Chinese font."""
    wanted = {letter for letter in text if ord(letter) > 0x2E7F}
    if not wanted:
        return ""
    from fontTools import subset

    options = subset.Options(
        desubroutinize=True, layout_features=[], hinting=False, name_IDs=[], notdef_outline=True
    )
    buffer = io.BytesIO()
    with subset.load_font(str(chinese_font()), options, lazy=True) as font:
        cutter = subset.Subsetter(options)
        cutter.populate(unicodes=map(ord, wanted))
        cutter.subset(font)
        font.save(buffer)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    face = 'font-family: "wentu"; unicode-range: U+2E80-10FFFF;'
    return f"@font-face {{ {face} src: url(data:font/otf;base64,{code}); }}\n"


def _section(section: Section) -> str:
    heading = f"<h2>{_escape(section.heading)}</h2>\n" if section.heading else ""
    match section:
        case Paragraph():
            inner = f'<p class="text">{_escape(section.text)}</p>'
        case Table():
            inner = _table(section)
        case Picture():
            png = section.png if isinstance(section.png, bytes) else section.png.read_bytes()
            assert png.startswith(b"\x89PNG"), "a Picture section takes a PNG"
            inner = f'<p class="plot">{_image(png, "png", section.text)}</p>'
        case Gallery():
            inner = '<div class="gallery">\n' + "\n".join(map(_card, section.rows)) + "\n</div>"
    return f"<section>\n{heading}{inner}\n</section>"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _image(data: bytes, kind: str, text: str) -> str:
    code = base64.b64encode(data).decode("ascii")
    return f'<img src="data:image/{kind};base64,{code}" alt="{_escape(text)}">'


def _table(table: Table) -> str:
    rows = [[_cell(value) for value in row] for row in table.rows]
    assert all(len(row) == len(table.columns) for row in rows), "a row of another length"
    columns = [[row[number] for row in rows] for number in range(len(table.columns))]
    right = [bool(cells) and all(map(_NUMBER.fullmatch, cells)) for cells in columns]
    head = _row("th", table.columns, right)
    body = "\n".join(_row("td", row, right) for row in rows)
    return (
        f'<div class="wide"><table>\n<thead>{head}</thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _cell(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(tag: str, cells: Sequence[str], right: Sequence[bool]) -> str:
    kinds = [' class="number"' if number else "" for number in right]
    inner = (
        f"<{tag}{kind}>{_escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
    )
    return f"<tr>{''.join(inner)}</tr>"


def _card(row: tuple[str, Shot, Shot]) -> str:
    query, expected, got = row
    pair = _shot(pick("expected", "应为"), expected) + _shot(pick("got", "得到"), got)
    return f'<article>\n<h3>{_escape(query)}</h3>\n<div class="pair">{pair}</div>\n</article>'


def _shot(role: str, shot: Shot) -> str:
    data, label = shot
    buffer = io.BytesIO()
    thumbnail(data, GALLERY_SIDE).save(buffer, "JPEG", quality=85)
    image = _image(buffer.getvalue(), "jpeg", label)
    return f"<figure>{image}<figcaption><b>{role}</b> {_escape(label)}</figcaption></figure>"


_PAGE = Template("""\
<!doctype html>
<html lang="$lang">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")
_STYLE = """\
:root { color-scheme: light dark; --ink: #1c2733; --quiet: #5b6773; --line: #dde2e8;
  --paper: #fff; --page: #f4f6f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --quiet: #9aa6b2; --line: #2f3944;
  --paper: #1a2129; --page: #12171d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.6;
  font-family: "wentu", system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei",
    "Noto Sans CJK SC", "Noto Sans SC", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1.5rem; }
h2 { font-size: 1.1rem; margin: 0 0 .75rem; }
h3 { font-size: .95rem; line-height: 1.4; margin: 0 0 .6rem; font-weight: 600; }
h1, h2, h3, td, figcaption, .text { overflow-wrap: anywhere; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.25rem; margin: 0 0 1rem; }
p { margin: 0; }
.text { white-space: pre-line; max-width: 75ch; }
.plot { background: #fff; border-radius: 8px; padding: .5rem; }
img { display: block; max-width: 100%; height: auto; }
.plot img { margin: 0 auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .75rem; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; font-size: .85rem; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
article { border: 1px solid var(--line); border-radius: 8px; padding: .9rem;
  break-inside: avoid; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--page);
  border: 1px solid var(--line); border-radius: 6px; }
figcaption { font-size: .8rem; line-height: 1.4; color: var(--quiet); margin-top: .35rem; }
figcaption b { color: var(--ink); }
@media print { body { background: none; } section { border: 0; padding: 0 0 1rem; } }
"""
