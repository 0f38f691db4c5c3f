"""Reports are files: what is in them, what must never be, and whether Chinese is really drawn."""

from __future__ import annotations

import base64
import importlib.util
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from wentu import report
from wentu.errors import InputError
from wentu.language import set_language
from wentu.report import (
    Gallery,
    Paragraph,
    Picture,
    Section,
    Table,
    chinese_font,
    contact_sheet,
    plot_loss,
    plot_recall,
    plot_recall_bars,
    plots,
    style,
    write_html,
)
from wentu.report.sheet import _wrap as wrap
from wentu.retrieval import KS

Colour = tuple[int, int, int]
RED, GREEN = (220, 20, 20), (20, 160, 20)
HISTORY = [
    {"epoch": 0.0, "recall": 0.41},
    {"epoch": 1.0, "loss": 2.1, "learning_rate": 1e-5, "recall": 0.63},
    {"epoch": 2.0, "loss": 1.2, "learning_rate": 5e-6, "recall": 0.71},
    {"epoch": 3.0, "loss": 0.9, "learning_rate": 1e-6, "recall": 0.70},
]


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WENTU_LANG", "en")
    set_language("en")
    yield
    set_language(None)


def encoded(colour: Colour | tuple[int, int, int, int], kind: str = "PNG", side: int = 80) -> bytes:
    buffer = io.BytesIO()
    mode = "RGBA" if len(colour) == 4 else "RGB"
    Image.new(mode, (side, side), colour).save(buffer, kind)
    return buffer.getvalue()


def colours(path: Path) -> set[Colour]:
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        found = opened.convert("RGB").getcolors(1 << 24)
    assert found is not None
    return {colour for _, colour in found if isinstance(colour, tuple)}  # type: ignore[misc]


def near(colour: Colour, path: Path) -> bool:
    """Whether the picture has that colour, give or take what resampling and JPEG do."""
    return any(max(abs(a - b) for a, b in zip(colour, c, strict=True)) < 12 for c in colours(path))


def figures(value: float) -> dict[str, float]:
    names = [f"{side}/recall@{k}" for side in ("text_to_image", "image_to_text") for k in KS]
    return dict.fromkeys(names, value)


def run(code: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, to see what a module imports."""
    root = Path(report.__file__).parents[2]
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


class Page(HTMLParser):
    """The elements of a page and its visible text, as a browser's parser sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


# The font


def test_the_font_has_chinese_glyphs() -> None:
    font = ImageFont.truetype(str(chinese_font()), 40)
    circle, square, missing = (bytes(font.getmask(text)) for text in ("圆", "方", "\U0010fffd"))
    assert any(circle)
    assert len({circle, square, missing}) == 3


def test_the_font_package_is_found_without_importing_it() -> None:
    code = (
        "import sys, wentu.report as r; r.chinese_font();"
        "heavy = {'mplfonts', 'matplotlib', 'PIL', 'torch'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_without_the_package_a_font_of_the_system_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    font = tmp_path / "msyh.ttc"
    font.touch()
    monkeypatch.setattr(style, "SYSTEM_FONTS", (str(tmp_path / "absent.ttc"), str(font)))
    assert chinese_font() == font
    monkeypatch.setattr(style, "SYSTEM_FONTS", ())
    with pytest.raises(InputError, match="pip install mplfonts"):
        chinese_font()


# Plots. A glyph that the font lacks is a warning of matplotlib, and warnings are errors here.


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "history",
    [
        HISTORY,
        HISTORY[:1],
        HISTORY[1:2],
        [],
        [{"epoch": float(epoch), "loss": 0.0, "recall": 0.0} for epoch in range(40)],
        [*HISTORY, {"epoch": 4.0, "loss": float("nan"), "recall": float("nan")}],
    ],
    ids=["usual", "before-training", "one-epoch", "empty", "flat", "diverged"],
)
def test_curves_are_drawn(language: str, history: list[dict[str, float]], tmp_path: Path) -> None:
    set_language("zh" if language == "zh" else "en")
    loss, recall = tmp_path / "new" / "loss.png", tmp_path / "new" / "recall.png"
    plot_loss(history, loss)
    plot_recall(history, recall)
    assert near((0x2F, 0x6F, 0xB5), recall) == any("recall" in row for row in history)
    assert near((0xD9, 0x62, 0x2B), loss) == any("loss" in row for row in history)
    assert sorted(loss.parent.iterdir()) == [loss, recall]


def test_in_batch_accuracy_is_drawn_beside_recall(tmp_path: Path) -> None:
    plain, both = tmp_path / "plain.png", tmp_path / "both.png"
    plot_recall(HISTORY, plain)
    plot_recall([row | {"in_batch_accuracy": 0.9} for row in HISTORY], both)
    assert plain.read_bytes() != both.read_bytes()


def test_the_language_changes_the_labels_and_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    drawn = []
    for language in ("en", "zh", "zh"):
        set_language("zh" if language == "zh" else "en")
        plot_recall(HISTORY, tmp_path / "curves.png")
        drawn.append((tmp_path / "curves.png").read_bytes())
    assert drawn[0] != drawn[1]
    assert drawn[1] == drawn[2]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_bars_are_drawn_for_every_model(language: str, tmp_path: Path) -> None:
    set_language("zh" if language == "zh" else "en")
    path = tmp_path / "bars.png"
    names = ("start", "champion", "candidate", "圆形模型")
    plot_recall_bars({name: figures(0.2 + 0.2 * n) for n, name in enumerate(names)}, path)
    for colour in (*plots.BARS.values(), plots.OTHER_BARS[0]):
        channels = (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:], 16))
        assert channels in colours(path)


@pytest.mark.parametrize("results", [{}, {"start": figures(0.0)}, {"candidate": figures(1.0)}])
def test_bars_at_the_ends_of_the_scale(
    results: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    plot_recall_bars(results, tmp_path / "bars.png")
    assert len(colours(tmp_path / "bars.png")) > 2


def test_plots_leave_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from wentu.report import plot_recall;"
        f"plot_recall([{{'epoch': 0, 'recall': 0.5}}], pathlib.Path({str(tmp_path)!r}, 'a.png'));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert run(code).returncode == 0


# Contact sheets


def sheet(tmp_path: Path, rows: list[tuple[str, list[tuple[bytes, str]]]]) -> Path:
    path = tmp_path / "sheet.png"
    contact_sheet(rows, path)
    return path


def test_a_sheet_with_one_picture_and_an_empty_row(tmp_path: Path) -> None:
    rows = [("一个圆", [(encoded(RED), "圆.png")]), ("没有命中", [])]
    path = sheet(tmp_path, rows)
    assert RED in colours(path)
    with Image.open(path) as both, Image.open(sheet(tmp_path, rows[:1])) as first:
        assert both.width == first.width
        assert both.height > first.height  # the empty row is there, and says so


def test_a_sheet_without_rows_is_still_a_picture(tmp_path: Path) -> None:
    assert len(colours(sheet(tmp_path, []))) > 1


def test_every_picture_of_a_long_row_is_there(tmp_path: Path) -> None:
    shades = [(200, 10 * number, 90) for number in range(23)]
    path = sheet(tmp_path, [("23", [(encoded(shade), "") for shade in shades])])
    assert set(shades) <= colours(path)
    with Image.open(path) as opened:
        assert opened.height > 3 * 150  # three lines of at most ten


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_any_format_is_shown(kind: str, tmp_path: Path) -> None:
    assert near(GREEN, sheet(tmp_path, [("", [(encoded(GREEN, kind), "x")])]))


def test_transparency_is_shown_on_white(tmp_path: Path) -> None:
    """Dropping the alpha channel instead would show solid red."""
    path = sheet(tmp_path, [("", [(encoded((255, 0, 0, 0)), "x")])])
    assert not near((255, 0, 0), path)


def test_pictures_are_shown_upright(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture = Image.new("RGB", (100, 20), RED)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture.save(buffer, "PNG", exif=exif)
    with Image.open(sheet(tmp_path, [("", [(buffer.getvalue(), "")])])) as opened:
        reds = [
            (x, y)
            for x in range(opened.width)
            for y in range(opened.height)
            if opened.getpixel((x, y)) == RED
        ]
    wide, high = (max(axis) - min(axis) for axis in zip(*reds, strict=True))
    assert high > 4 * wide


@pytest.mark.parametrize("data", [b"", b"no picture", encoded(RED)[:60]])
def test_a_broken_picture_does_not_cost_the_sheet(data: bytes, tmp_path: Path) -> None:
    assert RED in colours(sheet(tmp_path, [("", [(data, "broken"), (encoded(RED), "fine")])]))


def test_chinese_headings_and_labels_are_drawn_as_written(tmp_path: Path) -> None:
    picture = encoded(RED)
    texts = [("圆", "图"), ("方", "图"), ("圆", "文"), ("\U0010fffd", "图")]
    drawn = {sheet(tmp_path, [(q, [(picture, label)])]).read_bytes() for q, label in texts}
    assert len(drawn) == 4


@pytest.mark.parametrize(
    "text",
    ["长" * 5000, "word " * 900, "x" * 5000, "两行\n文字\t\x00\x07", "文件\udcff.png", "，" * 90],
)
def test_any_text_fits(text: str, tmp_path: Path) -> None:
    with Image.open(sheet(tmp_path, [(text, [(encoded(RED), text)])])) as opened:
        assert opened.height < 400


@pytest.mark.parametrize("width", [90, 150, 400])
@pytest.mark.parametrize(
    "text", ["雪地里，两只黑狗 in the snow。" * 3, "supercalifragilistic" * 3, ""]
)
def test_lines_are_wrapped_within_the_width(width: int, text: str) -> None:
    font = ImageFont.truetype(str(chinese_font()), 18)
    lines = wrap(text, font, width, most=99)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line.startswith(("，", "。")) for line in lines)
    short = wrap(text, font, width, most=2)
    assert len(short) <= 2
    assert (short[-1].endswith("…")) == (len(lines) > 2)
    assert all(font.getlength(line) <= width for line in short)


# HTML

HOSTILE = "<script>alert('圆')</script> & \"quoted\""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def writer(*sections: Section, title: str = "Report") -> Path:
        write_html(tmp_path / "report.html", title, list(sections))
        return tmp_path / "report.html"

    return writer


def everything() -> list[Section]:
    shot = (encoded(RED), HOSTILE)
    return [
        Paragraph(heading=HOSTILE, text=HOSTILE),
        Table(heading=HOSTILE, columns=["model", HOSTILE], rows=[["a", 0.5], [HOSTILE, 1]]),
        Picture(heading=HOSTILE, png=encoded(GREEN), text=HOSTILE),
        Gallery(heading=HOSTILE, rows=[(HOSTILE, shot, shot)]),
    ]


def test_every_text_is_escaped(write: Callable[..., Path]) -> None:
    page = Page(write(*everything(), title=HOSTILE))
    assert not page.all("script")
    # Title twice, four headings, paragraph, column, cell, query, two labels.
    assert page.text.count(HOSTILE) == 12
    assert [image["alt"] for image in page.all("img")] == [HOSTILE] * 3


def test_nothing_is_fetched_and_no_script_runs(write: Callable[..., Path]) -> None:
    path = write(*everything())
    source = path.read_text(encoding="utf-8")
    assert not re.search(
        r"https?://|//[a-z]|@import|url\((?!data:)|javascript:", source.split("base64,")[0]
    )
    page = Page(path)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form"}
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    policy = [meta["content"] or "" for meta in page.all("meta") if "http-equiv" in meta]
    assert [text.split(";")[0] for text in policy] == ["default-src 'none'"]


def test_no_address_is_in_the_text_either(write: Callable[..., Path]) -> None:
    assert not re.search("https?://", write(*everything()).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("language", "tag", "role"), [("en", "en", "got"), ("zh", "zh-CN", "得到")]
)
def test_the_page_says_its_language(
    language: str, tag: str, role: str, write: Callable[..., Path]
) -> None:
    set_language("zh" if language == "zh" else "en")
    page = Page(write(*everything()))
    assert page.all("html") == [{"lang": tag}]
    assert role in page.text
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )


def test_a_picture_is_embedded_byte_for_byte_from_a_file_too(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "plot.png").write_bytes(encoded(GREEN))
    page = Page(
        write(Picture(png=tmp_path / "plot.png", text="a"), Picture(png=encoded(RED), text="b"))
    )
    sources = [
        (image["src"] or "").removeprefix("data:image/png;base64,") for image in page.all("img")
    ]
    assert [base64.b64decode(source) for source in sources] == [encoded(GREEN), encoded(RED)]


def test_gallery_pictures_are_small_and_carry_no_exif(write: Callable[..., Path]) -> None:
    buffer = io.BytesIO()
    picture = Image.new("RGB", (1200, 900), RED)
    exif = picture.getexif()
    exif[0x010E] = "at home, 31.2 N 121.5 E"
    picture.save(buffer, "JPEG", exif=exif)
    shot = (buffer.getvalue(), "home.jpg")
    page = Page(write(Gallery(rows=[("家", shot, (b"broken", "?"))])))
    source = (page.all("img")[0]["src"] or "").removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(source))) as opened:
        assert opened.size == (320, 240)
        assert not dict(opened.getexif())
    assert len(page.all("img")) == 2


def test_number_columns_are_set_to_the_right(write: Callable[..., Path]) -> None:
    table = Table(
        columns=["model", "recall", "queries", "note"],
        rows=[["start", "38.0 %", 5000, "7"], ["candidate", "—", 1234, "seven"]],
    )
    page = Page(write(table))
    assert [cell.get("class") for cell in page.all("th")] == [None, "number", "number", None]
    assert [cell.get("class") for cell in page.all("td")] == [None, "number", "number", None] * 2


def test_empty_and_odd_sections_are_written(write: Callable[..., Path]) -> None:
    path = write(
        Table(columns=[], rows=[]), Gallery(rows=[]), Paragraph(text="文件\udcff.png $x ${y}")
    )
    assert "文件?.png $x ${y}" in Page(path).text
