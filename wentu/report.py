"""What a person looks at: curves, bars, contact sheets, and one-file HTML reports.

Everything is drawn with a font that has Chinese glyphs, which comes as a Python package
(mplfonts), so that a slim container without system fonts draws the same pictures. The price is
one weight only: rank is shown by size and colour, never by bold. A report is one file with every
picture inside, no script and no address outside it: it can be mailed, archived, and opened from
an artifact store. Pictures in it are drawn anew and small, so it carries no EXIF location.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, TypeAlias

from wentu.errors import InputError
from wentu.language import pick
from wentu.retrieval import KS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image
    from PIL.ImageFont import FreeTypeFont

Shot: TypeAlias = tuple[bytes, str]
"""An encoded picture, of any format that Pillow opens, and its label."""

SYSTEM_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-sans-cjk-fonts/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "/System/Library/Fonts/STHeiti Light.ttc",
    "C:/Windows/Fonts/msyh.ttc",
)
INK, QUIET, LINE, PAPER = "#1c2733", "#66727f", "#dde2e8", "#ffffff"
BLUE, ORANGE = "#2f6fb5", "#d9622b"
BARS = {"start": "#c3ccd6", "champion": "#7c93ad", "candidate": BLUE}
OTHER_BARS = (ORANGE, "#3d8f6f", "#8a63b0", "#b08a2e", "#3a9db1", "#b9527a")
COLUMNS = 4, 10
"""The fewest and the most pictures that a contact sheet is wide."""
GALLERY_SIDE = 320
"""Pixels of the longer side of a picture in a report's gallery; shown at half that."""
_NUMBER = re.compile(r"[+\-−±]?\d[\d., ]*(e[+-]?\d+)?( ?%)?|[—–-]?|nan")


def chinese_font() -> Path:
    """A font file with Chinese glyphs: the one of the package mplfonts, else the system's.

    The package is located, not imported (it would import pyplot). Raises InputError when there
    is no such font.
    """
    package = importlib.util.find_spec("mplfonts")
    folders = list(package.submodule_search_locations or ()) if package else []
    shipped = [Path(folder, "fonts", "NotoSansCJKsc-Regular.otf") for folder in folders]
    for path in (*shipped, *map(Path, SYSTEM_FONTS)):
        if path.is_file():
            return path
    raise InputError(
        "No font with Chinese characters was found, so reports cannot be drawn. "
        "Install one with: pip install mplfonts",
        "没有找到含中文字符的字体，无法绘制报告。请安装：pip install mplfonts",
    )


def _write(path: Path, data: bytes) -> None:
    """Write under a temporary name and rename, so that a report is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _clean(text: str) -> str:
    """One line that every font and encoding takes: file names may hold lone surrogates."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return "".join(letter for letter in line if letter.isprintable())


# Plots


def plot_curves(history: list[dict[str, float]], path: Path) -> None:
    """Write a PNG of the training: loss by epoch, and recall on valid with its best epoch marked.

    Each row of ``history`` has ``epoch`` and, where known, ``loss`` and ``recall`` (mean recall
    on valid, 0..1); epoch 0 is the model before training, which has a recall and no loss. Values
    that are absent or not finite are left out.
    """
    figure = _figure(10, 3.9)
    left, right = figure.subplots(1, 2)
    epoch = pick("epoch", "轮次")
    _style(left, pick("Training loss", "训练损失"), epoch)
    _style(right, pick("Mean recall on valid", "验证集平均召回率"), epoch)
    _draw_loss(left, *_points(history, "loss"))
    _draw_recall(right, *_points(history, "recall"))
    epochs = [row["epoch"] for row in history] or [0.0]
    margin = 0.04 * (max(epochs) - min(epochs)) or 0.5
    for axes in (left, right):
        axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    _save(figure, path)


def plot_recall_bars(results: dict[str, dict[str, float]], path: Path) -> None:
    """Write a PNG that compares models: grouped bars of R@1, R@5, R@10 in both directions.

    ``results`` maps a name ("start", "champion", "candidate", or any other, drawn in this
    order) to the figures of ``retrieval.summarize``.
    """
    figure = _figure(10 + 1.2 * max(0, len(results) - 3), 4.3)
    directions = {
        "text_to_image": pick("Text → picture", "以文搜图"),
        "image_to_text": pick("Picture → text", "以图搜文"),
    }
    for axes, (key, title) in zip(
        figure.subplots(1, 2, sharey=True), directions.items(), strict=True
    ):
        _style(axes, title, "")
        _draw_bars(
            axes, {name: [row[f"{key}/recall@{k}"] for k in KS] for name, row in results.items()}
        )
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            labelcolor=INK,
            prop={"family": _family(), "size": 10},
            handlelength=1.0,
            handleheight=1.0,
        )
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that pyplot never hears of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.06)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # equal input, equal bytes
    _write(path, buffer.getvalue())


def _family() -> str:
    """The family name of the Chinese font, made known to matplotlib once."""
    from matplotlib.font_manager import FontProperties, fontManager

    path = str(chinese_font())
    if all(entry.fname != path for entry in fontManager.ttflist):
        fontManager.addfont(path)
    return FontProperties(fname=path).get_name()


def _style(axes: Axes, title: str, below: str) -> None:
    family = _family()
    axes.set_title(title, loc="left", family=family, fontsize=12.5, color=INK, pad=12)
    axes.set_xlabel(below, family=family, fontsize=10, color=QUIET)
    axes.tick_params(length=0, pad=6, labelsize=9.5, labelcolor=QUIET, labelfontfamily=family)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#aab4bf")


def _points(history: list[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and finite values of one key, by epoch."""
    pairs = sorted((row["epoch"], row[key]) for row in history if key in row)
    finite = [(epoch, value) for epoch, value in pairs if math.isfinite(value)]
    return [epoch for epoch, _ in finite], [value for _, value in finite]


def _line(axes: Axes, epochs: list[float], values: list[float], colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    steps = [1, 2, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=steps))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=steps))
    if not values:
        axes.set_yticks([])
        axes.text(
            0.5,
            0.5,
            pick("nothing recorded yet", "暂无记录"),
            color=QUIET,
            family=_family(),
            ha="center",
            va="center",
            transform=axes.transAxes,
        )
        return
    axes.plot(
        epochs,
        values,
        color=colour,
        linewidth=2.2,
        solid_capstyle="round",
        marker="o",
        markersize=0 if len(values) > 30 else 4.5,
        clip_on=False,
        zorder=2.6,
    )


def _draw_loss(axes: Axes, epochs: list[float], values: list[float]) -> None:
    _line(axes, epochs, values, ORANGE)
    if values:
        axes.set_ylim(min(0.0, *values), 1.12 * max(values) if max(values) > 0 else 1.0)


def _draw_recall(axes: Axes, epochs: list[float], values: list[float]) -> None:
    from matplotlib.ticker import PercentFormatter

    _line(axes, epochs, values, BLUE)
    if not values:
        return
    low, high = min(values), max(values)
    room = max(high - low, 0.04)
    axes.set_ylim(max(0.0, low - 0.2 * room), high + 0.25 * room)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if room > 0.06 else 1))
    if epochs[0] == 0 and len(values) > 1:
        _mark_start(axes, epochs[-1], values)
    best = values.index(high)
    axes.plot(
        epochs[best],
        high,
        "o",
        color=BLUE,
        markersize=10,
        markeredgecolor=PAPER,
        markeredgewidth=1.5,
        clip_on=False,
        zorder=3,
    )
    where = (epochs[best] - epochs[0]) / ((epochs[-1] - epochs[0]) or 1)
    axes.annotate(
        pick(
            f"best: epoch {epochs[best]:g}, {high:.1%}",
            f"最佳：第 {epochs[best]:g} 轮，{high:.1%}",
        ),
        (epochs[best], high),
        xytext=(0, 10),
        textcoords="offset points",
        ha="center" if len(values) == 1 else "left" if where < 0.2 else "right",
        family=_family(),
        fontsize=10,
        color=INK,
    )


def _mark_start(axes: Axes, right: float, values: list[float]) -> None:
    """A dashed line at the recall before training, with its words on the side left free."""
    start, rest = values[0], values[1:]
    # Below the line where the curve runs above it, unless that is where the axis has its numbers.
    below = sum(rest) / len(rest) >= start > 0.12 * max(values)
    axes.axhline(start, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    axes.annotate(
        pick(f"before training {start:.1%}", f"训练前 {start:.1%}"),
        (right, start),
        xytext=(0, -5 if below else 4),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
        family=_family(),
        fontsize=9,
        color=QUIET,
    )


def _draw_bars(axes: Axes, recalls: dict[str, list[float]]) -> None:
    from matplotlib.ticker import PercentFormatter

    known = {
        "start": pick("starting weights", "起始权重"),
        "champion": pick("champion (in use)", "现用模型"),
        "candidate": pick("candidate (new)", "候选新模型"),
    }
    spare = iter(OTHER_BARS * (1 + len(recalls)))
    width = 0.8 / max(1, len(recalls))
    for number, (name, values) in enumerate(recalls.items()):
        shift = (number - (len(recalls) - 1) / 2) * width
        bars = axes.bar(
            [group + shift for group in range(len(KS))],
            values,
            width * 0.9,
            color=BARS.get(name) or next(spare),
            label=known.get(name, _clean(name)),
        )
        labels = [f"{100 * value:.1f}".replace("100.0", "100") for value in values]
        axes.bar_label(bars, labels, padding=2.5, fontsize=8.5, color=INK, family=_family())
    highest = max((value for values in recalls.values() for value in values), default=1.0)
    axes.set_ylim(0, min(1.1, max(0.1, 1.2 * highest)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xticks(range(len(KS)), [f"R@{k}" for k in KS])


# Contact sheets


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
    _write(path, buffer.getvalue())


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
    words = _wrap(_clean(query), heading, width - 2 * margin)
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
        picture = _thumbnail(data, cell - 2)
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill="#f5f7f9", outline=LINE)
        strip.paste(picture, (x + (cell - picture.width) // 2, y + (cell - picture.height) // 2))
        line = _ellipsize(_clean(text), label, cell)
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


def _thumbnail(data: bytes, side: int) -> Image.Image:
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


# HTML


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
    setting and prints. Every text is escaped.
    """
    body = "\n".join(_section(section) for section in sections)
    tag = pick("en", "zh-CN")
    page = _PAGE.substitute(lang=tag, title=_escape(title), style=_STYLE, body=body)
    _write(path, page.encode("utf-8", "replace"))


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
    _thumbnail(data, GALLERY_SIDE).save(buffer, "JPEG", quality=85)
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
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
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
  font-family: system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei",
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
