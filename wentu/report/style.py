"""The font and the colours that every picture and page shares."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from wentu.errors import InputError

INK, QUIET, LINE, PAPER = "#1c2733", "#66727f", "#dde2e8", "#ffffff"
BLUE, ORANGE = "#2f6fb5", "#d9622b"
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


def clean(text: str) -> str:
    """One line that every font and encoding takes: file names may hold lone surrogates."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return "".join(letter for letter in line if letter.isprintable())
